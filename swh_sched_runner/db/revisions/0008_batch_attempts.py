from swh_sched_runner.db.migrate import apply

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    apply("0008_batch_attempts.sql")
