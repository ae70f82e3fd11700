"""Whole transactions on PostgreSQL, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg2
import sqlalchemy.exc
import tenacity
from sqlalchemy import Connection, Engine

from swh_sched_runner.db.connections import connect, create_engine
from swh_sched_runner.db.deadline import NoAnswer
from swh_sched_runner.db.sqlstate import Meaning, meaning
from swh_sched_runner.exc import (
    DatabaseUnavailable,
    DataRefused,
    LockTimeout,
    StatementRefused,
    StatementTimeout,
    TransactionConflict,
)

__all__ = ["Database", "connect", "create_engine", "is_transient", "translate"]

P = ParamSpec("P")
T = TypeVar("T")

_TRANSIENT = frozenset({Meaning.CONFLICT, Meaning.AWAY, Meaning.LOCK})
ATTEMPTS = 5


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is tried again."""
    return _meaning(error) in _TRANSIENT


def _is_worth_a_try(error: BaseException) -> bool:
    # After lock_timeout the patience that somebody set is used up, and so it is where no answer came.
    silent = isinstance(error, sqlalchemy.exc.DBAPIError) and isinstance(error.orig, NoAnswer)
    return is_transient(error) and _meaning(error) is not Meaning.LOCK and not silent


def _meaning(error: BaseException) -> Meaning | None:
    """What a driver's error means, None for another one."""
    if not isinstance(error, sqlalchemy.exc.DBAPIError):
        return None
    code = getattr(error.orig, "pgcode", None)
    if code is not None:
        return meaning(code)
    # No answer of a server at all: connection refused, reset, timed out; or values that the driver can't write.
    if error.connection_invalidated or isinstance(error.orig, psycopg2.OperationalError):
        return Meaning.AWAY
    return Meaning.DATA if isinstance(error.orig, psycopg2.DataError) else Meaning.REFUSED


def translate(error: sqlalchemy.exc.DBAPIError) -> Exception:
    """Our error for one of the driver's: says what happened without the statement and its parameters."""
    reason = " ".join(str(error.orig).split()) or type(error.orig).__name__
    match _meaning(error):
        case Meaning.DATA:
            return DataRefused(reason=reason)
        case Meaning.CONFLICT:
            return TransactionConflict(reason=reason)
        case Meaning.AWAY:
            return DatabaseUnavailable(reason=reason)
        case Meaning.LOCK:
            return LockTimeout(reason=reason)
        case Meaning.STOPPED:
            return StatementTimeout(reason=reason)
        case _:
            return StatementRefused(reason=reason)


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
            session.autocommit = session.opens_each = True
            try:
                return work(conn, *args, **kwargs)
            finally:
                session.opens_each = False
                if not session.closed:
                    session.autocommit = False

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()
