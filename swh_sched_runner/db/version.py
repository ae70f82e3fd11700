"""Which version of the schema a database has, and which one this code needs; without Alembic, which takes its time."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import SchemaError

VERSION_TABLE = "swh_sched_runner_version"

_sql = Queries("db/schema")


def known() -> list[str]:
    """All versions that there were, in order: the numbers in front of the names of revisions."""
    files = (Path(__file__).parent / "revisions").glob("[0-9]*_*.py")
    return sorted(file.name.partition("_")[0] for file in files)


def head() -> str:
    """The version that this code needs."""
    return known()[-1]


def current(conn: Connection) -> str | None:
    """The version of the database, None if it was never initialised."""
    if not conn.execute(_sql.has_version, {"table": VERSION_TABLE}).scalar_one():
        return None
    version: str | None = conn.execute(_sql.version).scalar()
    return version


def require(conn: Connection) -> None:
    """Raise ``SchemaError`` unless the schema is the one that this code needs."""
    version = current(conn)
    if version == head():
        return
    if version is None:
        refuse_foreign(conn)
        raise SchemaError(reason="the database is empty: run `swh-sched-runner db init`")
    refuse_unknown(version)
    raise SchemaError(
        reason=f"the database is at schema version {version}, this program needs {head()}: "
        "run `swh-sched-runner db upgrade`"
    )


def refuse_unknown(version: str) -> None:
    """Raise ``SchemaError`` for a version that a later release made."""
    if version not in known():
        raise SchemaError(
            reason=f"the database is at schema version {version}, which this program (version {head()}) does not know: "
            "install the release that made it, or a newer one"
        )


def is_foreign(conn: Connection) -> bool:
    """Whether tables of a scheduler stand here that this program did not make."""
    return current(conn) is None and bool(conn.execute(_sql.foreign_tables).scalar_one())


def refuse_foreign(conn: Connection) -> None:
    """Raise ``SchemaError`` for such tables."""
    if is_foreign(conn):
        raise SchemaError(
            reason="the database holds tables of a scheduler that this program did not make, and nothing was changed: "
            "run `swh-sched-runner db adopt --dry-run` to see what it takes to use them, then `swh-sched-runner db "
            "adopt`"
        )
