"""Rejected events go the way of new ones again: parsed, merged per run, recorded, each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from swh_sched_runner.backend.events import rejected as database_side
from swh_sched_runner.backend.events.rejected import RejectedEvent
from swh_sched_runner.broker.celery.events import TaskEvent, Unreadable, parse
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import DataRefused, InvalidArgument, UnknownRejectedEvent
from swh_sched_runner.services.listener.merge import fold

Outcome = Literal["applied", "foreign", "nothing", "rejected", "cut", "gone"]


@attrs.define(slots=True, frozen=True)
class Replayed:
    """What became of a rejected event.

    - applied: recorded; ``runs`` are ours, ``foreign`` the ids of tasks that are no run.
    - foreign: it speaks of no run of ours.
    - nothing: it speaks of no task.
    - rejected: as before, for the ``reason``. What could be read of it is applied all the same.
    - cut: its body is not kept whole, so it can't be replayed.
    - gone: somebody dropped or replayed it meanwhile.

    The row stays where it is rejected or cut.
    """

    id: int
    outcome: Outcome
    runs: Sequence[str] = ()
    foreign: Sequence[str] = ()
    reason: str | None = None

    @property
    def stays(self) -> bool:
        """Whether it is a rejected event still."""
        return self.outcome in ("rejected", "cut")


def replay(database: Database, ids: Sequence[int], body: bytes | None = None) -> Iterator[Replayed]:
    """Replay these one after the other, in this order; each is committed before it is answered.

    ``body`` stands for the one that is kept: somebody has made it good by hand. What the database refuses for another
    reason than the data ends it with ``StatementRefused`` or ``DatabaseUnavailable``, and may be done again.
    """
    for event in ids:
        try:
            found = database.run(database_side.get, event)
        except UnknownRejectedEvent:
            yield Replayed(event, "gone")
        else:
            yield _replay(database, found, body)


def _replay(database: Database, found: RejectedEvent, given: bytes | None) -> Replayed:
    body = found.body if given is None else given
    if body is None or (given is None and not found.whole):
        return Replayed(found.id, "cut", reason=_cut(found))
    events = parse(body)
    changes = fold(event for event in events if isinstance(event, TaskEvent))
    unreadable = next((event.reason for event in events if isinstance(event, Unreadable)), None)
    try:
        recorded = database.run(database_side.replay, found.id, changes, remove=unreadable is None)
    except (DataRefused, InvalidArgument) as error:
        return Replayed(found.id, "rejected", reason=str(error))
    if recorded is None:
        return Replayed(found.id, "gone")
    runs = [change.backend_id for change in changes if change.backend_id in recorded.known]
    foreign = [change.backend_id for change in changes if change.backend_id not in recorded.known]
    if unreadable is not None:
        return Replayed(found.id, "rejected", runs, foreign, unreadable)
    return Replayed(found.id, "applied" if runs else "foreign" if foreign else "nothing", runs, foreign)


def _cut(found: RejectedEvent) -> str:
    of_all = "" if found.size is None else f" of {found.size}"
    return f"its first {found.kept} bytes{of_all} are kept: it can't be replayed"
