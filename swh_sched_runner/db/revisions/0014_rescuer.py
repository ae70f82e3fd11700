from swh_sched_runner.db.migrate import apply

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    apply("0014_rescuer.sql")
