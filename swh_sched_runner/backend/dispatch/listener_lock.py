"""The one listener of an event queue on Redis: a lock in the database.

An advisory lock and not a lease that runs out: a listener that was paused in the middle of a batch, and goes on, still
holds it, so what it commits then is never behind what another one took after it. A listener that is killed loses it as
soon as the system closes its connection; a machine that is gone, after the keepalives of ten seconds.
"""

from __future__ import annotations

from typing import Any, cast

import attrs
import sqlalchemy.exc
from sqlalchemy import Connection, Engine, TextClause

from swh_sched_runner.db.engine import translate
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.exc import ConfigurationError

# First key of the advisory locks of listeners; any number will do, as long as it stays.
LISTENER_LOCK = 0x5C4EF

_sql = Queries("dispatch/listener_lock")
_session = Queries("dispatch/outbox")


@attrs.define(slots=True, frozen=True)
class HeldLock:
    """A lock that was taken: of which queue, and by which process of the database."""

    queue: str
    backend_pid: int


class ListenerLock:
    """A connection of its own, outside the pool, that may hold the lock. For one thread."""

    def __init__(self, engine: Engine, queue: str) -> None:
        """Raises ``ConfigurationError`` behind a pooler, which would hand the lock to others."""
        self._queue = queue
        try:
            self._conn = engine.connect()
            self._conn.detach()
            driver = cast(Any, self._conn.connection.dbapi_connection)
            driver.autocommit = True
            if driver.info.backend_pid != self._conn.execute(_session.backend_pid).scalar_one():
                self._conn.close()
                raise ConfigurationError(
                    reason="database.url leads through a connection pooler in transaction mode; on Redis the listener "
                    "holds a lock in its session and needs a direct connection (or a pooler in session mode)"
                )
            self._conn.execute(_session.harden_session)
            self.held = HeldLock(queue, int(driver.info.backend_pid))
        except sqlalchemy.exc.DBAPIError as error:
            raise translate(error) from error.orig

    def take(self) -> bool:
        """Take the lock; False while another listener has it. Raises ``DatabaseUnavailable``."""
        return bool(self._execute(_sql.take_listener_lock, lock_class=LISTENER_LOCK, queue=self._queue))

    def check(self) -> None:
        """Raise ``DatabaseUnavailable`` unless the session answers: the lock is held then, if it was taken."""
        self._execute(_sql.check_listener_lock)

    def close(self) -> None:
        """End the session, and with it the lock. Never raises."""
        try:
            self._conn.close()
        except sqlalchemy.exc.SQLAlchemyError:
            self._conn.invalidate()

    def _execute(self, statement: TextClause, **binds: Any) -> Any:
        try:
            return self._conn.execute(statement, binds).scalar_one()
        except sqlalchemy.exc.DBAPIError as error:
            raise translate(error) from error.orig


def is_held(conn: Connection, lock: HeldLock) -> bool:
    """Whether that session holds the lock now, as another transaction sees it."""
    binds = {"backend_pid": lock.backend_pid, "lock_class": LISTENER_LOCK, "queue": lock.queue}
    return bool(conn.execute(_sql.listener_lock_is_held, binds).scalar_one())
