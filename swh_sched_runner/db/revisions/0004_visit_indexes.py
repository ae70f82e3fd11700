from swh_sched_runner.db.migrate import apply

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    apply("0004_visit_indexes.sql")
