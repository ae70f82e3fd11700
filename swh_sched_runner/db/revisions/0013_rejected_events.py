from swh_sched_runner.db.migrate import apply

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    apply("0013_rejected_events.sql")
