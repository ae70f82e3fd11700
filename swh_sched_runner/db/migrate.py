"""The schema's version: bring it up to date, say where it stands, refuse what doesn't fit.

Alembic keeps the history; each revision executes one numbered file of ``sql/migrations``.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2.errors
import sqlalchemy
from alembic import op
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from swh_sched_runner.db.connections import unhurried
from swh_sched_runner.db.engine import translate
from swh_sched_runner.db.queries import Queries, read
from swh_sched_runner.db.version import (
    VERSION_TABLE,
    current,
    head,
    is_foreign,
    refuse_foreign,
    refuse_unknown,
    require,
)
from swh_sched_runner.exc import SchemaError

__all__ = ["apply", "as_sql", "current", "head", "is_foreign", "only_one", "pending", "require", "stamp", "upgrade"]

# Key of the advisory lock that one upgrade at a time holds; any number will do, as long as it stays.
UPGRADE_LOCK = 0x5C4ED_0001
LOCK_TIMEOUT = "10s"
LOCK_POLL_SECONDS = 0.1

_sql = Queries("db/schema")


def apply(name: str) -> None:
    """Execute ``sql/migrations/<name>``; for revisions."""
    op.execute(sqlalchemy.text(f"set local lock_timeout = '{LOCK_TIMEOUT}'"))
    # A colon before a word would be a bind to SQLAlchemy; migrations have none.
    op.execute(sqlalchemy.text(re.sub(r"(?<!:):(?=\w)", r"\:", read("migrations", name))))


def _script() -> ScriptDirectory:
    folder = str(Path(__file__).parent / "revisions")
    return ScriptDirectory(folder, version_locations=[folder])


def pending(version: str | None) -> list[str]:
    """The versions that an upgrade from ``version`` will apply, in order; raises ``SchemaError`` for an unknown one."""
    if version is not None:
        refuse_unknown(version)
    return [script.revision for script in reversed(list(_script().iterate_revisions("head", version or "base")))]


def upgrade(engine: Engine) -> list[str]:
    """Apply what is missing and return the applied versions; several callers at once apply each once.

    A migration that waits more than 10 s for a lock gives up, and may be run again. Raises ``SchemaError`` where
    programs are at work that would not know the new schema, and names them.
    """
    try:
        with only_one(engine), unhurried(engine) as conn:
            version = current(conn)
            if version is None:
                refuse_foreign(conn)
            else:
                refuse_unknown(version)
            conn.commit()
            missing = pending(version)
            if missing:
                _run(version, connection=conn)
            return missing
    except sqlalchemy.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg2.errors.ObjectInUse):
            raise SchemaError(reason=error.orig.diag.message_primary) from error.orig
        raise translate(error) from error.orig


def as_sql(version: str | None = None) -> str:
    """The upgrade from ``version`` (None: from nothing) as a script for a DBA."""
    if version is not None:
        refuse_unknown(version)
    output = io.StringIO()
    if pending(version):
        output.write(f"{Queries('db/session').pin_session}\n\n")
    _run(version, as_sql=True, url="postgresql+psycopg2://", output_buffer=output)
    return output.getvalue()


def stamp(conn: Connection) -> None:
    """Note in this transaction that the schema is the one that this code needs; for who made it in another way."""
    MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE}).stamp(_script(), "head")


@contextmanager
def only_one(engine: Engine) -> Iterator[Connection]:
    """Wait until nobody else changes the schema, and keep others out as long as the yielded session lives.

    It is in autocommit mode. On a connection of its own and for the whole upgrade: with a lock per transaction six
    upgrades at once failed. By asking again and again: who waits within a statement holds a snapshot, and a concurrent
    build of an index by the one in front would wait for that, for ever.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        while not conn.execute(_sql.try_lock_upgrade, {"key": UPGRADE_LOCK}).scalar_one():
            time.sleep(LOCK_POLL_SECONDS)
        try:
            yield conn
        finally:
            conn.execute(_sql.unlock_upgrade, {"key": UPGRADE_LOCK})


def _run(version: str | None, *, as_sql: bool = False, **configure: Any) -> None:
    script = _script()

    def steps(revision: Any, context: MigrationContext) -> Any:
        return script._upgrade_revs("head", version or "base" if as_sql else revision)

    environment = EnvironmentContext(
        Config(), script, fn=steps, as_sql=as_sql, starting_rev=version if as_sql else None, destination_rev="head"
    )
    with environment:
        environment.configure(version_table=VERSION_TABLE, transaction_per_migration=True, **configure)
        with environment.begin_transaction():
            environment.run_migrations()
