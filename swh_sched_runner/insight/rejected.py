"""Events that could not be read or recorded, as an operator looks at them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from swh_sched_runner.backend.events import rejected as database_side
from swh_sched_runner.backend.events.rejected import RejectedEvent
from swh_sched_runner.db.engine import Database

__all__ = ["RejectedEvent", "drop_rejected", "list_rejected", "read_rejected", "rejected_ids"]


def list_rejected(database: Database, limit: int) -> list[RejectedEvent]:
    """The newest so many, the newest first, without their bodies."""
    return database.run(database_side.newest, limit)


def read_rejected(database: Database, event: int) -> RejectedEvent:
    """One, with its body. Raises ``UnknownRejectedEvent``."""
    return database.run(database_side.get, event)


def rejected_ids(database: Database, wanted: Sequence[int] | None) -> list[int]:
    """These ids, or all that there are, the oldest first. Raises ``UnknownRejectedEvent``."""
    return database.run(database_side.ids, wanted)


def drop_rejected(database: Database, wanted: Sequence[int] | None, older_than: timedelta | None) -> int:
    """Drop these, or all that are older; answers how many. Raises ``UnknownRejectedEvent``, and drops none then."""
    return database.run(database_side.drop, wanted, older_than)
