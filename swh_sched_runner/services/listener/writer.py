"""Writes batches into the database, beside the thread that receives."""

from __future__ import annotations

import queue
import threading
import time

import attrs

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.services.listener.batch import Batch
from swh_sched_runner.services.listener.recording import Recording
from swh_sched_runner.services.listener.rejected import RejectedEvents


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
            recording = Recording(self._dispatch, batch.signs)
            if batch.changes or batch.unreadable or batch.signs:
                recording.run(batch.changes, batch.unreadable, batch.events)
            if batch.compares:
                self._dispatch.compare_at_rest()
            self._rejected.added(recording.rejected)
            return Written(batch, recording, time.monotonic() - began)
        except Exception as error:
            return error
