"""A connection that the caller has open: its transaction, its settings and its end stay the caller's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast

import psycopg2
import psycopg2.extensions as driver
import sqlalchemy.exc
from sqlalchemy import Connection, Engine
from sqlalchemy.pool import StaticPool

from swh_sched_runner.db.connections import PostgreSQL, read_as_ours
from swh_sched_runner.db.engine import lost_in_commit, translate
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import ConnectionUnusable

P = ParamSpec("P")
T = TypeVar("T")

# What the code and the driver count on. A call sets what differs, and puts it back.
NEEDED = {"TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "postgres"}

_sql = Queries("db/session")


class _Quiet:
    """What SQLAlchemy sees as the connection of a cursor: it logs notices, and empties the caller's list of them."""

    notices: ClassVar[list[str]] = []


class _Cursor(driver.cursor):
    connection: Any = _Quiet()


class _Facade:
    """The connection as SQLAlchemy sees it: it can execute, but neither commit, roll back nor close."""

    def __init__(self, conn: driver.connection) -> None:
        self._conn = conn

    @property
    def closed(self) -> int:
        return self._conn.closed

    def cursor(self, *_: Any) -> driver.cursor:
        # Not the method of the caller's class, nor its factory of cursors: rows are to come as they are.
        cursor = driver.connection.cursor(self._conn, cursor_factory=_Cursor)
        read_as_ours(cursor)
        return cursor

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


class CallersConnection:
    """Runs functions on a psycopg2 connection of the caller's, one at a time.

    Within the caller's transaction, or where the connection is not in autocommit mode, each call is a savepoint: an
    error takes back that call alone, and nothing is committed before the caller does. In autocommit mode each call is
    a transaction. Nothing is tried again: that is for the owner of the transaction to decide.
    """

    def __init__(self, conn: driver.connection) -> None:
        if conn.async_:
            raise ConnectionUnusable(reason="it is asynchronous")
        self._conn = conn
        self._lock = threading.RLock()
        dialect = PostgreSQL(dbapi=psycopg2)
        # Without what create_engine adds: it would ask the server on the connection, and roll back after that.
        pool = StaticPool(lambda: cast(Any, _Facade(conn)), reset_on_return=None, dialect=dialect)
        self._engine = Engine(pool, dialect, sqlalchemy.make_url("postgresql+psycopg2://"), hide_parameters=True)

    def run(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work(connection, …)`` once, as part of the caller's transaction if there is one.

        Raises ``ConnectionUnusable``, and what ``Database.run`` raises.
        """
        try:
            with self._lock, self._engine.connect() as conn, self._call(conn):
                return work(conn, *args, **kwargs)
        except sqlalchemy.exc.DBAPIError as error:
            raise translate(error) from error.orig

    def close(self) -> None:
        """Leave the connection open: it is the caller's."""

    @contextmanager
    def _call(self, conn: Connection) -> Iterator[None]:
        own = self._needs_transaction()
        opened = conn.execute(_sql.begin if own else _sql.open_savepoint)
        try:
            path = None if own else opened.scalar_one()
            before = self._adjust(conn)
            yield
            if not own:
                _set(conn, before)
                conn.execute(_sql.release_savepoint, {"search_path": path})
        except BaseException:
            with suppress(sqlalchemy.exc.SQLAlchemyError):  # the connection is gone, and this call with it
                conn.execute(_sql.rollback if own else _sql.return_to_savepoint)
            raise
        if own:
            with lost_in_commit():
                conn.execute(_sql.commit)

    def _needs_transaction(self) -> bool:
        match self._conn.info.transaction_status:
            case driver.TRANSACTION_STATUS_IDLE:
                return self._conn.autocommit
            case driver.TRANSACTION_STATUS_INTRANS:
                return False
            case driver.TRANSACTION_STATUS_INERROR:
                raise ConnectionUnusable(reason="its transaction has failed, roll it back first")
            case driver.TRANSACTION_STATUS_ACTIVE:
                raise ConnectionUnusable(reason="it is in the middle of another statement")
            case _:
                raise ConnectionUnusable(reason="it is closed")

    def _adjust(self, conn: Connection) -> dict[str, str]:
        """Set what is needed and answer what was there before. The server reports these by itself: nothing is asked."""
        found = {name: self._conn.info.parameter_status(name) or "" for name in NEEDED}
        before = {name: value for name, value in found.items() if not value.startswith(NEEDED[name])}
        _set(conn, {name: NEEDED[name] for name in before})
        return before


def _set(conn: Connection, values: dict[str, str]) -> None:
    for name, value in values.items():
        conn.execute(_sql.set_for_now, {"name": name, "value": value})
