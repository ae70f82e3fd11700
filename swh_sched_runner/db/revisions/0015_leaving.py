from swh_sched_runner.db.migrate import apply

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    apply("0015_leaving.sql")
