from swh_sched_runner.db.migrate import apply

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    apply("0012_run_retention.sql")
