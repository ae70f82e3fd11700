"""Waking runners that sleep: whoever makes a task due calls these two, in its transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from swh_sched_runner.db.queries import Queries

# First key of the advisory lock between those who make tasks due and those who fall asleep; any number will do, as
# long as it stays.
SLEEP_LOCK = 0x5C4EF

_sql = Queries("wake")


def hold_off(conn: Connection) -> None:
    """Keep runners from falling asleep until this transaction ends. Call it before tasks are written."""
    conn.execute(_sql.hold_off, {"lock_class": SLEEP_LOCK})


def wake(conn: Connection, due: datetime | None = None) -> None:
    """Wake the runners that sleep beyond ``due`` (None: now), when this transaction commits. After ``hold_off``."""
    conn.execute(_sql.wake, {"due": due})
