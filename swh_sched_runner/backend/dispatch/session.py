"""Dispatcher sessions: each may have batches in the outbox, and lives as long as it holds its advisory lock."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg2
import sqlalchemy.exc
from sqlalchemy import Engine, TextClause

from swh_sched_runner.backend.wake import SLEEP_LOCK
from swh_sched_runner.db.engine import translate
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import ConfigurationError, SessionLost

# First key of the advisory locks of sessions; any number will do, as long as it stays: the view living_session has it.
SESSION_LOCK = 0x5C4EE
# First key of the advisory locks for taking over from a session: one successor at a time tries.
TAKE_OVER_LOCK = 0x5C4F0

# How a notification begins that asks for the lease of a queue; others wake.
LEASE = "lease "

# The last statement of a session is not worth a longer wait: a row that it leaves behind does no harm.
CLOSE_SECONDS = 3.0

_sql = Queries("dispatch/outbox")
_wake = Queries("wake")


class DispatcherSession:
    """The session that proves this runner alive, and that hears when it is woken. Not to be shared between threads.

    It is a connection of its own, outside the pool, and must reach PostgreSQL directly: a pooler in transaction mode
    would hand the lock to others.
    """

    def __init__(self, engine: Engine, service: str) -> None:
        """``service`` says whose session it is, for people."""
        self.listens = False  # whether it hears of notifications: from its first sleep on
        self._asked_for: set[str] = set()
        try:
            self._conn = engine.connect()
            self._conn.detach()
            self._driver = cast(Any, self._conn.connection.dbapi_connection)
            # Not by SQLAlchemy's option: it would reset the isolation level of the connection that takes the place.
            self._driver.autocommit = True
            self._refuse_pooler()
            self._conn.execute(_sql.harden_session)
            self.id: int = self._conn.execute(
                _sql.register_session, {"service": service, "host": socket.gethostname(), "pid": os.getpid()}
            ).scalar_one()
            self._conn.execute(_sql.try_lock_session, {"lock_class": SESSION_LOCK, "session_id": self.id})
        except sqlalchemy.exc.DBAPIError as error:
            raise translate(error) from error.orig

    def _refuse_pooler(self) -> None:
        if self._driver.info.backend_pid != self._conn.execute(_sql.backend_pid).scalar_one():
            self._conn.close()
            raise ConfigurationError(
                reason="database.url leads through a connection pooler in transaction mode; the runner holds a lock in "
                "its session and needs a direct connection (or a pooler in session mode)"
            )

    def check(self) -> None:
        """Raise ``SessionLost`` unless the session answers: its lock is held then."""
        self._execute(_sql.backend_pid)
        self._take_notifications()  # it is awake, and looks anyway before it sleeps

    def check_soon(self) -> None:
        """The same without a round trip, as long as the server has not closed the session."""
        if self._driver.closed or self._readable(0):  # nothing was asked: the end of the session, or a notification
            self.check()

    def fall_asleep(self, seconds: float) -> bool:
        """Announce a sleep: who makes a task due before its end wakes this session from now on.

        False, and nothing is announced, while a transaction that may do so is under way. After True look once more
        for what was due before.
        """
        if not self.listens:  # not for those who never sleep: what they hear would pile up
            self._execute(_wake.listen)
            self.listens = True
        announced = bool(self._execute(_wake.fall_asleep, lock_class=SLEEP_LOCK, session_id=self.id, seconds=seconds))
        self._take_notifications()  # whatever they are about is there to be seen
        return announced

    def wait(self, seconds: float) -> bool:
        """Wait until somebody wakes this session, or asks it for a queue; True if woken, else False, also in time."""
        if not self._driver.notifies and self._readable(seconds):
            with self._lost_if_broken():
                self._driver.poll()
            if not self._driver.notifies:  # then it may be the end of the session
                self._execute(_sql.backend_pid)
        return self._take_notifications()

    def ask_for(self, queue: str) -> None:
        """Ask whichever session keeps the lease of a queue that it doesn't use to release it."""
        self._execute(_wake.ask_for, payload=f"{LEASE}{queue}")

    def asked_for(self) -> set[str]:
        """The queues that others asked for since the last call."""
        asked, self._asked_for = self._asked_for, set()
        return asked

    def _take_notifications(self) -> bool:
        """Take in all that came; whether some were to wake this session."""
        payloads = [notification.payload for notification in self._driver.notifies]
        self._driver.notifies.clear()
        self._asked_for |= {payload.removeprefix(LEASE) for payload in payloads if payload.startswith(LEASE)}
        return not all(payload.startswith(LEASE) for payload in payloads)

    def wake_up(self) -> None:
        """End the announced sleep."""
        self._execute(_wake.wake_up, session_id=self.id)

    def _readable(self, seconds: float) -> bool:
        with self._lost_if_broken():
            return bool(select.select([self._driver], [], [], seconds)[0])

    @contextmanager
    def _lost_if_broken(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, psycopg2.Error) as error:  # closed under our hands
            raise SessionLost(session_id=self.id) from error

    def try_lock(self, session_id: int) -> bool:
        """Take the lock of another session; False while its session lives."""
        return bool(self._execute(_sql.try_lock_session, lock_class=SESSION_LOCK, session_id=session_id))

    def unlock(self, session_id: int) -> None:
        """Give the lock of another session back."""
        self._execute(_sql.unlock_session, lock_class=SESSION_LOCK, session_id=session_id)

    def begin_take_over(self, session_id: int) -> bool:
        """Become the one that may take over from another session; False while somebody else is."""
        return bool(self._execute(_sql.try_lock_session, lock_class=TAKE_OVER_LOCK, session_id=session_id))

    def end_take_over(self, session_id: int) -> None:
        """Let others try to take over from that session."""
        self._execute(_sql.unlock_session, lock_class=TAKE_OVER_LOCK, session_id=session_id)

    def end_session(self, session_id: int) -> None:
        """End another session, whose publishing connection is proven gone; never a successor that has its lock."""
        self._execute(_sql.end_session, session_id=session_id)

    def close(self) -> None:
        """End the session; its batches may be taken over from now on. One that has none leaves no trace."""
        self._driver.patience_seconds = CLOSE_SECONDS  # whoever closes it may have waited for it already
        try:
            self._conn.execute(_sql.forget_session, {"session_id": self.id})
        except sqlalchemy.exc.SQLAlchemyError:
            self._conn.invalidate()  # the session is gone already, and with it the lock
        finally:
            self._conn.close()

    def _execute(self, statement: TextClause, **binds: Any) -> Any:
        try:
            result = self._conn.execute(statement, binds)
            return result.scalar() if result.returns_rows else None
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise SessionLost(session_id=self.id) from error
