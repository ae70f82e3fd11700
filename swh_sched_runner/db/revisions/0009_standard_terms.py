from swh_sched_runner.db.migrate import apply

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    apply("0009_standard_terms.sql")
