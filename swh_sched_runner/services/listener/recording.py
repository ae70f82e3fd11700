"""Records what events say, beside the thread that receives, also where the database refuses some of it.

The class of the error decides, never how many are refused: what is wrong with the data is rejected, all else may go
well later and is kept.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence

import attrs
import msgspec

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.backend.tasks.lost import Marks
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.backend.workers.lives import Signs
from swh_sched_runner.broker.celery.events import TaskEvent
from swh_sched_runner.broker.interface import KEPT_BYTES, MAX_EVENT_BYTES
from swh_sched_runner.exc import DataRefused, InvalidArgument, StatementRefused
from swh_sched_runner.services.listener.merge import Batch
from swh_sched_runner.services.listener.rejected import RejectedEvents

# Statements that may be refused, though not for their data, before the database counts as out of order. A single bad
# row of a batch of 500 takes nine.
MOST_REFUSALS = 64


class Recording:
    """One batch: what was recorded of it, which changes were rejected, and which runs have to wait, and why."""

    def __init__(self, dispatch: Dispatch, signs: Signs | None = None, marks: Marks | None = None) -> None:
        """``signs`` are recorded with each statement: twice is as good as once. ``marks`` once nothing has to wait."""
        self.known: set[str] = set()
        self.foreign = 0  # runs that are none of ours
        self.ended: Counter[str] = Counter()
        self.rejected: list[Rejection] = []
        self.waiting: dict[str, str] = {}
        self._dispatch = dispatch
        self._signs = signs
        self._marks = marks
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
            self._record(changes, unreadable, self._marks)
        except (StatementRefused, InvalidArgument) as error:
            self._events = events
            self._narrow(changes, error)
            self.rejected += unreadable
            self._dispatch.record_events([], self.rejected, None, None if self.waiting else self._marks)
        else:
            self.rejected += unreadable

    def _record(
        self, changes: Sequence[RunChange], unreadable: Sequence[Rejection] = (), marks: Marks | None = None
    ) -> None:
        recorded = self._dispatch.record_events(changes, unreadable, self._signs, marks)
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


@attrs.define(slots=True, frozen=True)
class Written:
    """A batch that was written, and is committed: what came of it, and how long it took."""

    batch: Batch
    recording: Recording
    seconds: float


class Writer:
    """A thread that writes one batch at a time. All methods are for the thread that made it.

    The two threads share nothing but two queues. A batch belongs to the thread that took it out of one of them: the
    receiving thread changes nothing of a batch that it handed over, and gets it back with what came of it.
    ``RejectedEvents`` and the recordings are the writing thread's, until they are handed back. Errors are handed back
    as well, and raised where ``finished`` is called.
    """

    def __init__(self, dispatch: Dispatch, rejected: RejectedEvents) -> None:
        self._dispatch = dispatch
        self._rejected = rejected
        self._to_write: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[Written | Exception] = queue.SimpleQueue()
        self._busy = False
        self._thread = threading.Thread(target=self._run, name="listener-writer", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a batch was handed over that ``finished`` has not answered yet."""
        return self._busy

    @property
    def is_done(self) -> bool:
        """Whether ``finished`` has something to answer."""
        return not self._written.empty()

    def write(self, batch: Batch) -> None:
        """Hand over a batch; only when the one before is finished."""
        assert not self._busy
        self._busy = True
        self._to_write.put(batch)

    def finished(self, timeout_seconds: float) -> Written | None:
        """The batch that was handed over, once it is committed; None if it isn't in time, or there is none.

        Raises what its recording raised: nothing of the batch may be acknowledged then.
        """
        if not self._busy:
            return None
        try:
            written = self._written.get(timeout=timeout_seconds) if timeout_seconds > 0 else self._written.get_nowait()
        except queue.Empty:
            return None
        self._busy = False
        if isinstance(written, Exception):
            raise written
        return written

    def close(self) -> None:
        """End the thread, once it has written what it has in hand."""
        self._to_write.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._to_write.get()) is not None:
            self._written.put(self._outcome(batch))

    def _outcome(self, batch: Batch) -> Written | Exception:
        began = time.monotonic()
        try:
            self._rejected.trim()
            recording = Recording(self._dispatch, batch.signs, batch.marks)
            if batch.changes or batch.unreadable or batch.signs or batch.marks:
                recording.run(batch.changes, batch.unreadable, batch.events)
            if batch.compares:
                self._dispatch.compare_at_rest()
            self._rejected.added(recording.rejected)
            return Written(batch, recording, time.monotonic() - began)
        except Exception as error:
            return error
