from swh_sched_runner.db.migrate import apply

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    apply("0016_service_sessions.sql")
