"""Recording what events say, also where the database refuses some of it.

The class of the error decides, never how many are refused: what is wrong with the data is rejected, all else may go
well later and is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.backend.workers.lives import Signs
from swh_sched_runner.broker.celery.events import TaskEvent
from swh_sched_runner.broker.interface import KEPT_BYTES, MAX_EVENT_BYTES
from swh_sched_runner.exc import DataRefused, InvalidArgument, StatementRefused

# Statements that may be refused, though not for their data, before the database counts as out of order. A single bad
# row of a batch of 500 takes nine.
MOST_REFUSALS = 64


class Recording:
    """One batch: what was recorded of it, which changes were rejected, and which runs have to wait, and why."""

    def __init__(self, dispatch: Dispatch, signs: Signs | None = None) -> None:
        """``signs`` are recorded with each statement: twice is as good as once."""
        self.known: set[str] = set()
        self.foreign = 0  # runs that are none of ours
        self.ended: Counter[str] = Counter()
        self.rejected: list[Rejection] = []
        self.waiting: dict[str, str] = {}
        self._dispatch = dispatch
        self._signs = signs
        self._refusals_left = MOST_REFUSALS
        self._events: Sequence[TaskEvent] = ()

    def run(
        self, changes: Sequence[RunChange], unreadable: Sequence[Rejection], events: Sequence[TaskEvent] = ()
    ) -> None:
        """Record all changes and keep what could not be read, in one transaction if it goes well.

        Else what is refused is narrowed down by halves. ``events`` are what the changes were merged from: those of a
        change that is rejected are kept. Raises ``StatementRefused`` when the database takes hardly
        anything, or does not keep what is rejected: then nothing may be acknowledged.
        """
        try:
            self._record(changes, unreadable)
        except (StatementRefused, InvalidArgument) as error:
            self._events = events
            self._narrow(changes, error)
            self.rejected += unreadable
            self._dispatch.record_events([], self.rejected)
        else:
            self.rejected += unreadable

    def _record(self, changes: Sequence[RunChange], unreadable: Sequence[Rejection] = ()) -> None:
        recorded = self._dispatch.record_events(changes, unreadable, self._signs)
        self.known |= recorded.known
        self.foreign += len(changes) - len(recorded.known)
        self.ended += recorded.ended

    def _narrow(self, changes: Sequence[RunChange], error: StatementRefused | InvalidArgument) -> None:
        """These changes were refused together: find the ones to blame."""
        rejected = isinstance(error, DataRefused | InvalidArgument)
        if not rejected:
            self._refusals_left -= 1
            if self._refusals_left <= 0:
                raise error
        if len(changes) > 1:
            middle = len(changes) // 2
            self._try(changes[:middle])
            self._try(changes[middle:])
        elif changes and rejected:
            self.rejected.append(self._rejection(changes[0].backend_id, str(error)))
        elif changes:
            self.waiting[changes[0].backend_id] = str(error)
        elif not rejected:
            raise error  # there was nothing to record but what was unreadable

    def _rejection(self, backend_id: str, reason: str) -> Rejection:
        """All that these events say of a run, as a message of its own: it can be replayed."""
        body = msgspec.json.encode([event for event in self._events if event.uuid == backend_id])
        kept = body if len(body) <= MAX_EVENT_BYTES else body[:KEPT_BYTES]
        return Rejection(reason, kept, len(body), {"run": backend_id})

    def _try(self, changes: Sequence[RunChange]) -> None:
        try:
            self._record(changes)
        except (StatementRefused, InvalidArgument) as error:
            self._narrow(changes, error)
