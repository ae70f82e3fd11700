from swh_sched_runner.db.migrate import apply

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    apply("0007_match_indexes.sql")
