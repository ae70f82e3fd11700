from swh_sched_runner.db.migrate import apply

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    apply("0003_dispatch.sql")
