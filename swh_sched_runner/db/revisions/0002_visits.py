from swh_sched_runner.db.migrate import apply

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    apply("0002_visits.sql")
