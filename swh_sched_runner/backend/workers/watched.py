"""What the rescuer reads of lives, and how it ends those that are over."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs
from sqlalchemy import Connection

from swh_sched_runner.backend.columns import column
from swh_sched_runner.backend.workers.lives import Inspected, record_answers
from swh_sched_runner.db.engine import Database
from swh_sched_runner.db.queries import Queries

_sql = Queries("workers/watched")


@attrs.define(slots=True, frozen=True)
class WatchedLife:
    """A life, by the clock of the database: what tells whether it is over.

    ``silent_seconds`` ago its last heartbeat or answer arrived, ``left_seconds`` ago its last worker-offline;
    ``is_leaving``: it has not come back since, and executes ``left_running`` tasks; None where that can't be counted.
    ``sends_no_events``: it has begun tasks, as its heartbeats say, and no task-started of it ever came. ``missing`` of
    those that should have come did not. ``came`` changes when it comes online, ``state`` with each sign.
    """

    id: int
    hostname: str
    pid: int | None
    queues: list[str] | None
    blocks: bool | None
    heartbeat: float | None
    silent_seconds: float | None
    is_leaving: bool
    left_running: int | None
    left_seconds: float | None
    sends_no_events: bool
    missing: int | None
    ended_by: str | None
    ended_seconds: float | None
    came: str
    state: str


@attrs.define(slots=True, frozen=True)
class WithoutEvents:
    """A life that is over, and began tasks without a task event; ``queues`` is None if unknown."""

    hostname: str
    queues: list[str] | None
    ended_seconds: float


class WatchedLives:
    """Reads and ends lives; shares the pool of its ``Database``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def read(self, ids: Collection[int] = ()) -> list[WatchedLife]:
        """The lives that are not over, and of these ids also those that are."""
        return self._db.read(_read, ids)

    def ended_without_events(self) -> list[WithoutEvents]:
        """The lives that are over and began tasks without a task event."""
        return self._db.read(_ended_without_events)

    def end(self, lives: Collection[WatchedLife], ended_by: Mapping[int, str]) -> dict[int, str]:
        """End these lives unless they gave a sign since they were read; answers the new state of each that ended."""
        return self._db.run(_end, lives, ended_by)

    def record_answers(self, answers: Sequence[Inspected]) -> None:
        """Record what lives answered."""
        self._db.run(record_answers, answers)


def _read(conn: Connection, ids: Collection[int]) -> list[WatchedLife]:
    return [WatchedLife(**row) for row in conn.execute(_sql.watched, {"ids": column(sorted(ids))}).mappings()]


def _ended_without_events(conn: Connection) -> list[WithoutEvents]:
    return [WithoutEvents(**row) for row in conn.execute(_sql.ended_without_events).mappings()]


def _end(conn: Connection, lives: Collection[WatchedLife], ended_by: Mapping[int, str]) -> dict[int, str]:
    if not lives:
        return {}
    binds = {
        "ids": column([life.id for life in lives]),
        "states": column([life.state for life in lives]),
        "ended_by": column([ended_by[life.id] for life in lives]),
    }
    return {row.id: row.state for row in conn.execute(_sql.end_lives, binds)}
