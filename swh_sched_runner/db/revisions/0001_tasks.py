from swh_sched_runner.db.migrate import apply

revision = "0001"
down_revision = None


def upgrade() -> None:
    apply("0001_tasks.sql")
