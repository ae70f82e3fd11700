"""Grabbing and sending at the same time: while the broker takes one batch, the next one is grabbed.

Only the thread of the runner talks to the broker; a second one talks to the database. A queue's turn begins with its
lock and a reading of its room, and ends when its last batch is confirmed and closed in the outbox.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import attrs
import structlog

from swh_sched_runner.backend.dispatch.outbox import Batch, Dispatch
from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.broker.publish import Sent
from swh_sched_runner.exc import BrokerUnavailable, StatementRefused
from swh_sched_runner.services.dispatch.sender import Sender
from swh_sched_runner.services.dispatch.turn import Pace, Turn
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat

log = structlog.get_logger(__name__)

# Batches that are grabbed, or being grabbed, before they can be sent: one in the hand, one under way.
GRABS_AHEAD = 2
# Batches that wait for their confirms, and queues whose locks are held, at the same time.
SENT_AHEAD = 4
TURNS_AHEAD = 3

T = TypeVar("T")


@attrs.define(eq=False)
class Grab:
    """A request for tasks."""

    turn: Turn
    group: TaskGroup
    wanted: int
    future: Future[tuple[Batch | StatementRefused | None, float]]


@attrs.define(eq=False)
class Written:
    """A batch whose messages are with the broker, unconfirmed."""

    turn: Turn
    group: TaskGroup
    batch: Batch
    sent: Sent


class Pipeline:
    """Fills queues, turn by turn. For one thread."""

    def __init__(self, dispatch: Dispatch, sender: Sender, batch_size: int, instruments: Instruments) -> None:
        self.dispatch = dispatch
        self.sender = sender
        self.instruments = instruments
        self.pace = Pace(batch_size)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grab")

    def close(self) -> None:
        """Wait for the grab that is under way: what it messages is for whoever comes next."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def run(self, queues: Sequence[tuple[str, Sequence[TaskGroup]]], heartbeat: Heartbeat) -> list[Turn]:
        """Give each queue a turn, in this order; answers the turns, also of queues that were full already.

        A queue that is somebody else's, or refused, has none.
        """
        with ExitStack() as everything:
            return _Round(self, everything, queues, heartbeat).run()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do something in the thread that talks to the database."""
        return self._thread.submit(work)

    def wait(self, future: Future[T], heartbeat: Heartbeat) -> T:
        """The result of something that thread does; the connection to the broker is kept alive meanwhile."""
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
    """One pass over the queues. All its locks are let go when ``everything`` ends."""

    def __init__(
        self,
        pipeline: Pipeline,
        everything: ExitStack,
        queues: Iterable[tuple[str, Sequence[TaskGroup]]],
        heartbeat: Heartbeat,
    ) -> None:
        self._pipeline = pipeline
        self._sender = pipeline.sender
        self._instruments = pipeline.instruments
        self._everything = everything
        self._waiting = deque(queues)
        self._alone = len(self._waiting) == 1
        self._heartbeat = heartbeat
        self._looked = time.monotonic()
        self._over = False  # the broker takes no more: what is written is brought to its end, nothing more unconfirmed
        self._turn: Turn | None = None  # whose groups are asked now
        self._turns: list[Turn] = []
        self._held = 0
        self._grabs: deque[Grab] = deque()
        self._written: deque[Written] = deque()
        self._closing: deque[tuple[Turn, Future[str | None]]] = deque()
        self._trouble: str | None = None  # what the database refused

    def run(self) -> list[Turn]:
        """All the turns."""
        while True:
            while len(self._grabs) < GRABS_AHEAD and self._ask():
                pass
            if self._grabs:
                self._write(self._grabs.popleft())
            elif self._written:
                self._close(self._written.popleft())
            elif self._closing:
                self._pipeline.wait(self._closing[0][1], self._heartbeat)
            elif not self._waiting or self._stopping():
                self._heartbeat.trouble = self._trouble
                return self._turns
            while self._written and (self._written[0].sent.done or len(self._written) > SENT_AHEAD):
                self._close(self._written.popleft())
            while self._closing and self._closing[0][1].done():
                self._closed(*self._closing.popleft())
            self._heartbeat.beat()

    def _ask(self) -> bool:
        """Ask for the next tasks; False when there is nothing to ask for now."""
        while True:
            if self._turn is None:
                if not self._waiting or self._held >= TURNS_AHEAD or self._stopping():
                    return False
                self._turn = self._begin(*self._waiting.popleft())
                if self._turn is None:
                    continue
            wanted = None if self._stopping() else self._turn.next(self._pipeline.pace.size)
            if wanted is None:
                turn, self._turn = self._turn, None
                self._end_if_over(turn)
                continue
            self._grab(self._turn, *wanted)
            return True

    def _stopping(self) -> bool:
        if not self._over:
            try:
                self._sender.keep_alive()
            except BrokerUnavailable:
                self._over = True
        return self._over or self._heartbeat.stopping

    def _begin(self, queue: str, groups: Sequence[TaskGroup]) -> Turn | None:
        locks = ExitStack()
        self._everything.push(locks)
        max_queue_length = min(
            (group.max_queue_length for group in groups if group.max_queue_length is not None), default=None
        )
        fill = locks.enter_context(self._sender.fill(queue, max_queue_length, self._heartbeat))
        if fill is None:
            locks.close()
            return None
        turn = Turn(groups, fill, locks, again=self._alone)
        self._turns.append(turn)
        self._held += 1
        return turn

    def _grab(self, turn: Turn, group: TaskGroup, wanted: int) -> None:
        def grab() -> tuple[Batch | StatementRefused | None, float]:
            started = time.monotonic()
            try:
                batch = self._pipeline.dispatch.open_batch(self._sender.session_id, turn.fill.queue, group, wanted)
            except StatementRefused as error:  # of tasks of this group; others go on
                return error, 0.0
            return batch, time.monotonic() - started

        self._grabs.append(Grab(turn, group, wanted, self._pipeline.submit(grab)))

    def _write(self, grab: Grab) -> None:
        batch, seconds = self._pipeline.wait(grab.future, self._heartbeat)
        if isinstance(batch, StatementRefused):
            self._trouble = str(batch)
            self._sender.account.left_out(grab.group.task_type, self._trouble)
            batch = None
        taken = 0 if batch is None else len(batch.messages)
        self._pipeline.pace.note(taken, seconds)
        grab.turn.grabbed(grab.group, grab.wanted, taken)
        if batch is not None:
            self._sender.account.unsendable(batch, batch.unsendable)
        if batch is None or not batch.messages:
            self._end_if_over(grab.turn)
            return
        self._instruments.grabbed(grab.group.task_type, taken, seconds)
        sent = self._sender.write(grab.turn.fill, batch)
        self._written.append(Written(grab.turn, grab.group, batch, sent))
        self._over = self._over or not sent.complete

    def _close(self, written: Written) -> None:
        """Take the batch out of the outbox, all but what the broker did not confirm."""
        turn, group, batch, sent = written.turn, written.group, written.batch, written.sent
        left = self._sender.finish(turn.fill, batch, sent)
        seen = turn.fill.seen()
        if sent.confirmed and not turn.sent[group]:
            self._instruments.lag(group.task_type, time.monotonic() - self._looked - group.due_in_seconds)
        turn.sent[group] += len(sent.confirmed)
        self._instruments.dispatched(group.task_type, batch.queue, len(sent.confirmed))

        def close() -> str | None:
            return self._sender.close_batch(batch, left, sent, seen)

        self._closing.append((turn, self._pipeline.submit(close)))

    def _closed(self, turn: Turn, future: Future[str | None]) -> None:
        refusal = future.result()
        if refusal is not None:
            self._trouble = refusal
            self._sender.account.left_open(turn.fill.queue, refusal)
            self._sender.open_queues.add(turn.fill.queue)
        turn.under_way -= 1
        self._end_if_over(turn)

    def _end_if_over(self, turn: Turn) -> None:
        if turn is not self._turn and not turn.under_way:
            turn.end()
            self._held -= 1
