"""Connections to PostgreSQL: those that we open and pool, and how values are read on any."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from uuid import UUID

import psycopg2
import psycopg2.extensions as driver
import sqlalchemy
from sqlalchemy import Connection, Engine, TextClause
from sqlalchemy.dialects.postgresql import psycopg2 as dialect
from sqlalchemy.pool import QueuePool

from swh_sched_runner.config import urls
from swh_sched_runner.db.deadline import Guarded, NoAnswer, watchdog
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.db.values import INTERVAL, JSON, TIMESTAMP
from swh_sched_runner.exc import InvalidArgument

# Longer than any transaction of ours, short enough that somebody learns of a lock that was left behind.
LOCK_TIMEOUT_SECONDS = 30.0

# The server is to end a statement itself: who waits for that gives it a quarter more time, within these bounds.
LEAST_GRACE_SECONDS, MOST_GRACE_SECONDS = 1.0, 5.0
# libpq knows no less. For each address, when the process is to stop.
HASTY_CONNECT_SECONDS = 2

# A peer that vanished is noticed within 10 s at both ends (libpq 12 or newer; not on socket files).
DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    # Not the program's name alone: by that 0009_standard_terms.sql knows the releases before it.
    "application_name": "swh-sched-runner client",
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

# SQLAlchemy's side of the driver, a class without types.
PostgreSQL: Any = dialect.dialect

_sql = Queries("db/session")
_UUID = driver.new_type((2950,), "UUID", lambda value, _: None if value is None else UUID(str(value)))
# Written down, since an application may have registered readers of its own, for all connections or for one.
_READERS: tuple[Any, ...] = (
    *(getattr(driver, name) for name in ("BOOLEAN", "INTEGER", "LONGINTEGER", "FLOAT", "DECIMAL", "UNICODE")),
    *(getattr(driver, name) for name in ("UNICODEARRAY", "LONGINTEGERARRAY")),
    psycopg2.BINARY,
    _UUID,
    TIMESTAMP,
    INTERVAL,
    JSON,
)


def read_as_ours(target: driver.connection | driver.cursor) -> None:
    """Have this connection or cursor read values as the backend documents, whatever the application registered."""
    for reader in _READERS:
        driver.register_type(reader, target)


def dsn(db: str, **options: Any) -> str:
    """``db`` as libpq takes it; raises ``InvalidArgument`` for what is no connection string or URL of PostgreSQL.

    ``options`` are those of libpq that are given beside it; the argument that is refused may be one of them.
    """
    # Neither the value nor libpq's reason is repeated: both may quote a password.
    given: Any = db
    value = f"another {type(given).__name__}"
    fault = urls.database_shape_fault(given) if isinstance(given, str) else None
    if fault is not None and urls.scheme_of(given) in urls.DATABASE_SCHEMES:
        raise InvalidArgument(argument="db", reason=fault, value=value)
    try:
        found = db.replace("postgresql+psycopg2://", "postgresql://", 1)
        driver.parse_dsn(found)
    except (AttributeError, psycopg2.ProgrammingError, UnicodeError, ValueError):
        reason = "must be a libpq connection string, a postgresql:// URL or an open psycopg2 connection"
        raise InvalidArgument(argument="db", reason=fault or reason, value=value) from None
    if fault is not None:
        raise InvalidArgument(argument="db", reason=fault, value=value)
    _check_options(options)
    return found


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises ``InvalidArgument`` for options that libpq doesn't take."""
    given = {key: str(value) for key, value in options.items()}
    fault = urls.libpq_fault(given)
    try:
        driver.make_dsn(**given)
    except (psycopg2.ProgrammingError, UnicodeError, ValueError):
        known = ", ".join(sorted(given.keys() - urls.LIBPQ_OPTIONS))
        fault = f"contains options unknown to libpq: {known}"
    if fault is not None:
        raise InvalidArgument(argument="options", reason=fault, value="another value")


def connect(
    db: str,
    *,
    lock_timeout_seconds: float | None = None,
    statement_timeout_seconds: float | None = None,
    **connect_args: Any,
) -> Guarded:
    """A psycopg2 connection in UTC. ``db`` is a libpq connection string or a postgresql:// URL.

    A timeout is set where the role, the database and the connection string set none; a transaction idles little longer
    than a statement may take. Where a statement may take only so long, in whichever of these ways, an answer is waited
    for a little longer; then ``NoAnswer`` is raised.
    """
    conn = _open(dsn(db, **connect_args), connect_args)
    try:
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute(
                _plain(_sql.prepare),
                {
                    "lock_timeout": _milliseconds(lock_timeout_seconds),
                    "statement_timeout": _milliseconds(statement_timeout_seconds),
                    # Later than the client gives up: it is to say why.
                    "idle_timeout": _milliseconds(
                        statement_timeout_seconds and _patience(statement_timeout_seconds) + 1
                    ),
                },
            )
            *_, limit = cursor.fetchone() or (0,)
        conn.autocommit = False
        conn.opening = _plain(_sql.pin) + "\n"
        conn.patience_seconds = _patience(float(limit))
    except BaseException:
        conn.close()
        raise
    return conn


def _open(found: str, connect_args: dict[str, Any]) -> Guarded:
    given = driver.parse_dsn(found)
    arguments = {key: value for key, value in (DEFAULTS | connect_args).items() if key not in given}
    if watchdog.stopping:
        arguments["connect_timeout"] = HASTY_CONNECT_SECONDS
    patience = float((given | arguments)["connect_timeout"]) or math.inf
    started = time.monotonic()
    try:
        conn: Guarded = psycopg2.connect(found, connection_factory=Guarded, **arguments)
    except psycopg2.OperationalError as error:
        # libpq reckons in whole milliseconds, and may give up one of them earlier than we reckon.
        if time.monotonic() - started < patience - 0.1:
            raise
        watchdog.silent()
        raise NoAnswer(str(error)) from error
    conn.patience_seconds = patience
    return conn


def _patience(statement_timeout_seconds: float) -> float:
    """How long an answer is waited for where the server ends a statement after so long; 0 is never."""
    if not statement_timeout_seconds:
        return math.inf
    grace = statement_timeout_seconds / 4
    return statement_timeout_seconds + min(max(grace, LEAST_GRACE_SECONDS), MOST_GRACE_SECONDS)


def create_engine(
    db: str,
    min_pool_conns: int = 1,
    max_pool_conns: int = 10,
    *,
    lock_timeout_seconds: float | None = LOCK_TIMEOUT_SECONDS,
    statement_timeout_seconds: float | None = None,
    **connect_args: Any,
) -> Engine:
    """An engine that keeps ``min_pool_conns`` connections and opens up to ``max_pool_conns``; then callers wait.

    ``connect_args`` go to libpq. A process that is forked gets connections of its own. Timeouts: see ``connect``.
    """
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://",
        creator=lambda: connect(
            db,
            lock_timeout_seconds=lock_timeout_seconds,
            statement_timeout_seconds=statement_timeout_seconds,
            **connect_args,
        ),
        poolclass=QueuePool,
        pool_size=max(min_pool_conns, 1),  # 0 would mean without limit
        max_overflow=max_pool_conns - max(min_pool_conns, 1),
        pool_timeout=None,
        use_native_hstore=False,  # no column is of that type, and it would be asked for on each new connection
        hide_parameters=True,  # arguments of tasks may hold secrets: they don't belong into messages of errors
    )
    sqlalchemy.event.listen(engine, "connect", lambda conn, _: read_as_ours(conn))
    _forget_in_children(engine)
    return engine


@contextmanager
def unhurried(engine: Engine) -> Iterator[Connection]:
    """A connection for work that may take hours: without timeouts, and closed in the end instead of pooled."""
    with engine.connect() as conn:
        conn.detach()
        conn.execute(_sql.lift_timeouts)
        conn.commit()
        take_time(conn)
        yield conn


def take_time(conn: Connection) -> None:
    """Wait for this connection's answers without an end: its timeouts were lifted, and it won't go back to a pool."""
    session: Any = conn.connection.dbapi_connection
    session.patience_seconds = None


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_start_anew)


def _start_anew() -> None:
    for engine in list(_engines):
        engine.dispose(close=False)  # the sessions are the parent's: closing them here would end them there


def _forget_in_children(engine: Engine) -> None:
    _engines.add(engine)
    _watch_forks()


def _milliseconds(seconds: float | None) -> str:
    return "0" if seconds is None else f"{max(1, round(seconds * 1000))}ms"


def _plain(statement: TextClause) -> str:
    """The statement as the driver takes it."""
    return str(statement.compile(dialect=PostgreSQL()))
