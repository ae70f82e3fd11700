"""Whole transactions on PostgreSQL, and which errors are worth another try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg2
import sqlalchemy.exc
import tenacity
from sqlalchemy import Connection, Engine

from swh_sched_runner.db.connections import connect, create_engine
from swh_sched_runner.exc import (
    DatabaseUnavailable,
    LockTimeout,
    StatementRefused,
    StatementTimeout,
    TransactionConflict,
)

__all__ = ["Database", "connect", "create_engine", "is_transient", "translate"]

P = ParamSpec("P")
T = TypeVar("T")

CONFLICTS = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
    }
)
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
# The transaction did not happen, and the next one may.
TRANSIENT_SQLSTATES = CONFLICTS | {
    LOCK_NOT_AVAILABLE,
    "25P03",  # idle_in_transaction_session_timeout
    "57P01",  # admin_shutdown: the server, or the session, was ended by an administrator
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now: the server is starting up
    "57P05",  # idle_session_timeout
    "53300",  # too_many_connections
}
ATTEMPTS = 5


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is tried again."""
    if not isinstance(error, sqlalchemy.exc.DBAPIError):
        return False
    sqlstate = _sqlstate(error)
    if sqlstate is None:  # no answer of a server at all: connection refused, reset, timed out
        return error.connection_invalidated or isinstance(error.orig, psycopg2.OperationalError)
    return sqlstate in TRANSIENT_SQLSTATES or sqlstate.startswith("08")


def _is_worth_a_try(error: BaseException) -> bool:
    # After lock_timeout the patience that somebody set is used up.
    return is_transient(error) and _sqlstate(error) != LOCK_NOT_AVAILABLE


def _sqlstate(error: BaseException) -> str | None:
    return getattr(getattr(error, "orig", None), "pgcode", None)


def translate(error: sqlalchemy.exc.DBAPIError) -> Exception:
    """Our error for one of the driver's: says what happened without the statement and its parameters."""
    reason = " ".join(str(error.orig).split()) or type(error.orig).__name__
    sqlstate = _sqlstate(error)
    if sqlstate == LOCK_NOT_AVAILABLE:
        return LockTimeout(reason=reason)
    if sqlstate == QUERY_CANCELED:
        return StatementTimeout(reason=reason)
    if sqlstate in CONFLICTS:
        return TransactionConflict(reason=reason)
    return DatabaseUnavailable(reason=reason) if is_transient(error) else StatementRefused(reason=reason)


@contextmanager
def lost_in_commit() -> Iterator[None]:
    """A connection that breaks during commit: whether it took effect is unknown, so it isn't tried again."""
    try:
        yield
    except sqlalchemy.exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        reason = " ".join(str(error.orig).split())
        raise DatabaseUnavailable(reason=f"connection lost during commit: {reason}") from error.orig


class Database:
    """Runs functions in transactions of their own; the only place that commits and that tries again."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work(connection, …)`` in one transaction; transient errors try the whole of it again.

        Raises ``DatabaseUnavailable`` when that doesn't help or a timeout is over, ``StatementRefused`` when
        PostgreSQL says no.
        """
        return self._again(lambda: self._once(work, *args, **kwargs))

    def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work(connection, …)``, which only reads; each of its statements sees what is committed by then.

        Half as many round trips as a transaction. Errors as in ``run``.
        """
        return self._again(lambda: self._read(work, *args, **kwargs))

    def _again(self, once: Callable[[], T]) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_worth_a_try),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=2),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    return once()
        except sqlalchemy.exc.DBAPIError as error:
            raise translate(error) from error.orig
        raise AssertionError("tenacity ends with a return or an error")

    def _once(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self.engine.connect() as conn:
            result = work(conn, *args, **kwargs)
            with lost_in_commit():
                conn.commit()
            return result

    def _read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self.engine.connect() as conn:
            session: Any = conn.connection.dbapi_connection
            # SQLAlchemy's option for this costs a round trip: the driver resets the isolation level afterwards.
            session.autocommit = True
            try:
                return work(conn, *args, **kwargs)
            finally:
                if not session.closed:
                    session.autocommit = False

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()
