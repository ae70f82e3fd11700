from swh_sched_runner.db.migrate import apply

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    apply("0010_rules_once.sql")
