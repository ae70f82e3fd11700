from swh_sched_runner.db.migrate import apply

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    apply("0011_workers.sql")
