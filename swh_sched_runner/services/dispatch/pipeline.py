"""Grabbing and publishing at the same time: while the broker takes one batch, the next one is grabbed.

Two threads. The one that calls uses the publishing connection and the dispatcher session; between passes it queries the
database as well. The other one grabs and closes batches, over the pool, and never touches the broker.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import attrs
import structlog

from swh_sched_runner.backend.dispatch.outbox import Batch
from swh_sched_runner.broker.interface import PublishResult
from swh_sched_runner.exc import BrokerUnavailable, StatementRefused
from swh_sched_runner.services.dispatch.fill_pass import AdaptiveBatchSize, FillPass, QueueWork, Source
from swh_sched_runner.services.dispatch.lease import QueueLease, Refusal
from swh_sched_runner.services.dispatch.sender import Sender
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat

# Batches that are grabbed, or being grabbed, before they can be published: one that waits, one under way.
GRABS_AHEAD = 2
# Batches that wait for their confirms, and queues that are leased, at the same time.
PUBLISHED_AHEAD = 4
LEASES_AHEAD = 3

T = TypeVar("T")

log = structlog.get_logger(__name__)


@attrs.define(eq=False)
class Grab:
    """A request for messages of a source."""

    fill_pass: FillPass
    source: Source
    wanted: int
    future: Future[tuple[Batch | StatementRefused | None, float]]


@attrs.define(eq=False)
class Published:
    """A batch whose messages are with the broker, unconfirmed."""

    fill_pass: FillPass
    source: Source
    batch: Batch
    result: PublishResult


class Pipeline:
    """Fills queues. For one thread; ``batch_size`` is how many messages a batch has at most.

    ``keep_leases``: of queues that have nothing due, for callers that hear when others ask for them.
    """

    def __init__(self, sender: Sender, batch_size: int, instruments: Instruments, *, keep_leases: bool) -> None:
        self.sender = sender
        self.instruments = instruments
        self.keep_leases = keep_leases
        self.batch_size = AdaptiveBatchSize(batch_size)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grab")

    def close(self) -> None:
        """Wait for the grab that is under way: its batch is for whoever comes next."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def run(
        self, work: Sequence[QueueWork], heartbeat: Heartbeat, *, again: bool = False
    ) -> Mapping[str, FillPass | Refusal]:
        """A pass over each queue, in this order; answers each pass, or why the queue could not be leased.

        ``again``: the sources of each are asked for as long as a pass may last, else once. A queue that was not come to
        has no answer. What the database refuses is ``heartbeat.trouble``.
        """
        with ExitStack() as leases:
            return _Round(self, leases, work, heartbeat, again=again).run()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do something in the other thread."""
        return self._thread.submit(work)

    def wait(self, future: Future[T], heartbeat: Heartbeat) -> T:
        """The result of something that thread does; the publishing connection is kept alive meanwhile."""
        while True:
            try:
                return future.result(1.0)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
                heartbeat.beat()
                with contextlib.suppress(BrokerUnavailable):  # noticed before anything more is asked for
                    self.sender.keep_alive()


class _Round:
    """One pass over each queue. All that is leased still is released when ``leases`` ends."""

    def __init__(
        self,
        pipeline: Pipeline,
        leases: ExitStack,
        work: Sequence[QueueWork],
        heartbeat: Heartbeat,
        *,
        again: bool,
    ) -> None:
        self._pipeline = pipeline
        self._sender = pipeline.sender
        self._instruments = pipeline.instruments
        self._leases = leases
        self._waiting = deque(work)
        self._again = again
        self._heartbeat = heartbeat
        self._started = time.monotonic()
        self._over = False  # the broker takes no more: what is published is brought to its end, nothing more grabbed
        self._asking: FillPass | None = None  # whose sources are asked now
        self._answers: dict[str, FillPass | Refusal] = {}
        self._open: set[FillPass] = set()
        self._grabs: deque[Grab] = deque()
        self._published: deque[Published] = deque()
        self._closing: deque[tuple[FillPass, Future[str | None]]] = deque()
        self._trouble: str | None = None  # what the database refused

    def run(self) -> Mapping[str, FillPass | Refusal]:
        """All the passes."""
        while True:
            while len(self._grabs) < GRABS_AHEAD and self._ask():
                pass
            if self._grabs:
                self._publish(self._grabs.popleft())
            elif self._published:
                self._close(self._published.popleft())
            elif self._closing:
                self._pipeline.wait(self._closing[0][1], self._heartbeat)
            elif not self._waiting or self._stopping():
                self._heartbeat.trouble = self._trouble
                return self._answers
            while self._published and (self._published[0].result.done or len(self._published) > PUBLISHED_AHEAD):
                self._close(self._published.popleft())
            while self._closing and self._closing[0][1].done():
                self._closed(*self._closing.popleft())
            self._heartbeat.beat()

    def _ask(self) -> bool:
        """Ask for the next messages; False when there is nothing to ask for now."""
        while True:
            if self._asking is None:
                if not self._waiting or len(self._open) >= LEASES_AHEAD or self._stopping():
                    return False
                self._asking = self._begin(self._waiting.popleft())
                if self._asking is None:
                    continue
            wanted = None if self._stopping() else self._asking.next(self._pipeline.batch_size.size)
            if wanted is None:
                fill_pass, self._asking = self._asking, None
                self._end_if_over(fill_pass)
                continue
            self._grab(self._asking, *wanted)
            return True

    def _stopping(self) -> bool:
        if not self._over:
            try:
                self._sender.keep_alive()
            except BrokerUnavailable:
                self._over = True
        return self._over or self._heartbeat.stopping

    def _begin(self, work: QueueWork) -> FillPass | None:
        lease = self._sender.acquire(work.queue, work.max_queue_length, self._heartbeat)
        if not isinstance(lease, QueueLease):
            log.debug("queue not leased", queue=work.queue, reason=lease)
            self._answers[work.queue] = lease
            return None
        log.debug(
            "queue leased",
            queue=work.queue,
            depth=lease.depth,
            limit=lease.max_queue_length,
            capacity=lease.capacity,
            drain_rate=lease.drain_rate,
        )
        fill_pass = FillPass(lease, work.sources, again=self._again)
        self._answers[work.queue] = fill_pass
        self._open.add(fill_pass)
        self._leases.callback(self._end, fill_pass)
        return fill_pass

    def _grab(self, fill_pass: FillPass, source: Source, wanted: int) -> None:
        def grab() -> tuple[Batch | StatementRefused | None, float]:
            started = time.monotonic()
            try:
                batch = source.open_batch(self._sender.session_id, fill_pass.lease.queue, wanted)
            except StatementRefused as error:  # of this source; others go on
                return error, 0.0
            return batch, time.monotonic() - started

        self._grabs.append(Grab(fill_pass, source, wanted, self._pipeline.submit(grab)))

    def _publish(self, grab: Grab) -> None:
        batch, seconds = self._pipeline.wait(grab.future, self._heartbeat)
        if isinstance(batch, StatementRefused):
            self._trouble = str(batch)
            self._sender.account.left_out(grab.source.task_type, self._trouble)
            batch = None
        taken = 0 if batch is None else len(batch.messages)
        self._pipeline.batch_size.note(taken, seconds)
        grab.fill_pass.grabbed(grab.source, grab.wanted, taken)
        if batch is not None:
            self._sender.account.unsendable(batch, batch.unsendable)
        if batch is None or not batch.messages:
            self._end_if_over(grab.fill_pass)
            return
        self._instruments.grabbed(grab.source.task_type, taken, seconds)
        result = self._sender.publish(grab.fill_pass.lease, batch)
        self._published.append(Published(grab.fill_pass, grab.source, batch, result))
        self._over = self._over or not result.complete

    def _close(self, published: Published) -> None:
        """Take the batch out of the outbox, all but what the broker did not confirm."""
        fill_pass, source, batch, result = published.fill_pass, published.source, published.batch, published.result
        left = self._sender.wait_for_confirms(fill_pass.lease, batch, result)
        seen = fill_pass.lease.seen()
        confirmed = len(result.confirmed)
        if confirmed and not fill_pass.sent[source] and source.due_in_seconds is not None:
            self._instruments.lag(source.task_type, time.monotonic() - self._started - source.due_in_seconds)
        fill_pass.confirmed(source, confirmed)
        self._instruments.dispatched(source.task_type, batch.queue, confirmed)

        def close() -> str | None:
            return self._sender.close_batch(batch, left, result, seen)

        self._closing.append((fill_pass, self._pipeline.submit(close)))

    def _closed(self, fill_pass: FillPass, future: Future[str | None]) -> None:
        refused = future.result()
        if refused is not None:
            self._trouble = refused
            self._sender.left_open(fill_pass.lease.queue, refused)
        fill_pass.closed()
        self._end_if_over(fill_pass)

    def _end_if_over(self, fill_pass: FillPass) -> None:
        if fill_pass is not self._asking and not fill_pass.busy:
            self._end(fill_pass)

    def _end(self, fill_pass: FillPass) -> None:
        if fill_pass in self._open:
            self._open.remove(fill_pass)
            self._sender.give_up(fill_pass.lease, keep=self._pipeline.keep_leases and fill_pass.dry)
