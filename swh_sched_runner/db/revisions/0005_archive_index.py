from swh_sched_runner.db.migrate import apply

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    apply("0005_archive_index.sql")
