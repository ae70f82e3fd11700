"""Sends what the ledger promises, under one identity: an owner's session and its publishing connection.

Both the runner and the visit scheduler send through it. When either half of the identity breaks, the sender is
closed; whoever comes next proves it gone and takes its batches over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog

from swh_sched_runner.backend.dispatch import Batch, Dispatch, OpenBatch, QueueSeen
from swh_sched_runner.backend.lanes import QueueState
from swh_sched_runner.backend.owner import Owner
from swh_sched_runner.broker.publish import Filler, Message, Publisher, Sent
from swh_sched_runner.exc import DepthUnreadable, QueueRefused
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Pulse

log = structlog.get_logger(__name__)

# Messages of a publisher that died may still be on their way into the queue. Without the wait 8 of 25 rounds
# overshot the bound, with it none (RabbitMQ 3.10).
SETTLE_SECONDS = 1.0
# How often a sender looks whether its identity is whole, and whether another one left batches behind.
TEND_SECONDS = 1.0
# The drain rate of a queue is averaged over about so long.
DRAIN_SECONDS = 60.0
# A queue that stays refused is named in the log this often.
REMIND_SECONDS = 60.0


class Fill:
    """The sole right to fill a queue, until the context that gave it ends; and how much fits in, counted as it goes."""

    def __init__(self, queue: str, bound: int | None, filler: Filler, state: QueueState) -> None:
        self.queue = queue
        self.bound = bound
        self.room = filler.room()
        self.depth = filler.depth
        self.filler = filler
        self.drained = _drained(state, self.depth)
        self.drain_rate = _drain_rate(state, self.drained)

    @property
    def full(self) -> bool:
        """Whether nothing more fits in."""
        return self.room is not None and self.room <= 0

    def seen(self) -> QueueSeen:
        """The queue as it looks by our own count."""
        return QueueSeen(self.queue, self.depth, self.drain_rate)


def _drained(state: QueueState, depth: int | None) -> float | None:
    """Messages a second that left the queue since its last filler looked; None where that can't be told."""
    if state.depth is None or depth is None or not state.seconds or state.seconds < 0 or depth > state.depth:
        return None
    return (state.depth - depth) / state.seconds


def _drain_rate(state: QueueState, drained: float | None) -> float | None:
    if drained is None or state.drain_rate is None:
        return state.drain_rate if drained is None else drained
    weight = 1 - math.exp(-(state.seconds or 0) / DRAIN_SECONDS)
    return state.drain_rate + weight * (drained - state.drain_rate)


class Sender:
    """One identity that may send. Not to be shared between threads."""

    def __init__(
        self, dispatch: Dispatch, open_publisher: Callable[[int], Publisher], service: str, instruments: Instruments
    ) -> None:
        self.instruments = instruments
        self.open_queues: set[str] = set()
        self._dispatch = dispatch
        self._owner: Owner = dispatch.open_owner(service)
        try:
            self._publisher = open_publisher(self._owner.id)
        except BaseException:
            self._owner.close()
            raise
        self._next_tend = 0.0
        self._left_alone: dict[str, tuple[str, float]] = {}

    @property
    def owner(self) -> int:
        """The identity in the ledger."""
        return self._owner.id

    def close(self) -> None:
        """Give the identity up; the publishing connection first, so that nothing is sent without the lock."""
        try:
            self._publisher.close()
        finally:
            self._owner.close()

    def keep_alive(self) -> None:
        """Keep the publishing connection alive; every second or so. Raises ``BrokerUnavailable``."""
        self._publisher.check()

    def fall_asleep(self, seconds: float) -> bool:
        """See ``Owner.fall_asleep``."""
        return self._owner.fall_asleep(seconds)

    def wait(self, seconds: float) -> bool:
        """Wait until somebody made tasks due; True then. See ``Owner.wait``."""
        return self._owner.wait(seconds)

    def wake_up(self) -> None:
        """See ``Owner.wake_up``."""
        self._owner.wake_up()

    def tend(self, pulse: Pulse, *, busy: bool = False) -> int:
        """Once a second, take over what dead owners promised; and send again what is open, not more often if ``busy``.

        Answers how many messages went out. ``open_queues`` still have open batches: nothing new may go there. Raises
        ``OwnershipLost`` or ``BrokerUnavailable`` when the identity is broken.
        """
        time_has_come = time.monotonic() >= self._next_tend
        if time_has_come:
            self._owner.check()
            self._publisher.check()
            if self._adopt():
                pulse.wait(SETTLE_SECONDS)
        elif busy or not self.open_queues:
            return 0
        resent = self._resend_all(pulse)
        if time_has_come:
            self._next_tend = time.monotonic() + TEND_SECONDS
        return resent

    def _resend_all(self, pulse: Pulse) -> int:
        resent, open_queues = 0, set()
        for batch in self._dispatch.open_batches(self.owner):
            if pulse.stopping or batch.queue in open_queues:
                open_queues.add(batch.queue)
                continue
            sent, done = self._resend(batch, pulse)
            resent += sent
            if not done:
                open_queues.add(batch.queue)
        self.open_queues = open_queues
        return resent

    @contextmanager
    def fill(self, queue: str, bound: int | None, pulse: Pulse, *, again: bool = False) -> Iterator[Fill | None]:
        """Be the only filler of a queue; None if it is somebody else's, or refused.

        A queue is also somebody else's who has promised messages to it and could not send them yet; not where promises
        of our own are sent ``again``.
        """
        with ExitStack() as lock:
            try:
                filler = lock.enter_context(self._publisher.fill(queue, bound))
            except QueueRefused as error:
                self._leave_alone(queue, bound, str(error))
                filler = None
            yield None if filler is None else self._take(queue, bound, filler, pulse, again)

    def _take(self, queue: str, bound: int | None, filler: Filler, pulse: Pulse, again: bool) -> Fill | None:
        state = self._dispatch.queue_state(self.owner, queue)
        if state.promised_by_others:
            if not again:
                # Who waits here holds the lock that the other one needs to keep its promise.
                return None
            pulse.wait(SETTLE_SECONDS)
        try:
            fill = Fill(queue, bound, filler, state)
        except (DepthUnreadable, QueueRefused) as error:
            self._leave_alone(queue, bound, str(error))
            return None
        self._left_alone.pop(queue, None)
        self.instruments.queue_seen(queue, fill.depth, bound)
        return fill

    def _leave_alone(self, queue: str, bound: int | None, reason: str) -> None:
        self.instruments.queue_seen(queue, None, bound)
        told, until = self._left_alone.get(queue, ("", 0.0))
        if reason != told or time.monotonic() >= until:
            self._left_alone[queue] = reason, time.monotonic() + REMIND_SECONDS
            log.error("queue left alone", queue=queue, reason=reason)

    def left_alone(self, queue: str) -> bool:
        """Whether the broker refused the queue, or its depth, when it was asked last."""
        return queue in self._left_alone

    def write(self, fill: Fill, batch: Batch) -> Sent:
        """Send a batch that fits into the room; the broker's confirms come later."""
        return fill.filler.write(_messages(batch), self._owner.check_soon)

    def settle(self, sent: Sent) -> None:
        """Wait for the confirms of what was written."""
        self._publisher.settle(sent)

    def unconfirmed(self, batch: Batch, sent: Sent) -> list[str]:
        """The ids of a batch that stay promises, now that all was said of it. They are sent again under these ids."""
        ids = [promise.backend_id for promise in batch.promises if promise.backend_id not in sent.confirmed]
        if ids:
            self.open_queues.add(batch.queue)
            self.instruments.unconfirmed(batch.queue, len(ids))
            log.warning(
                "messages not confirmed, they will be sent again under the same ids",
                queue=batch.queue,
                batch=batch.id,
                unconfirmed=len(ids),
                confirmed=len(sent.confirmed),
            )
        return ids

    def send(self, fill: Fill, batch: Batch) -> int:
        """Send as much of a batch as there is room for, and wait; answers how many messages the broker confirmed.

        The rest stays a promise of the ledger and is sent again, under the same ids.
        """
        started = time.monotonic()
        messages = _messages(batch)
        fitting: Sequence[Message] = messages if fill.room is None else messages[: max(fill.room, 0)]
        confirmed = fill.filler.send(fitting, self._owner.check_soon) if fitting else set()
        left = [message.id for message in messages if message.id not in confirmed]
        if left:
            self.open_queues.add(batch.queue)
        count(fill, len(confirmed), len(fitting))
        self._dispatch.close_batch(self.owner, batch.id, left, fill.seen())
        self.instruments.sent(batch.queue, len(confirmed), time.monotonic() - started)
        self.instruments.queue_seen(batch.queue, fill.depth, fill.bound)
        if len(confirmed) < len(fitting):
            self.instruments.unconfirmed(batch.queue, len(fitting) - len(confirmed))
        return len(confirmed)

    def _adopt(self) -> int:
        """Take over the batches of owners that are proven gone; answers how many."""
        total = 0
        for old in self._dispatch.other_owners(self.owner):
            if not self._proven_gone(old):
                continue
            try:
                adopted = self._dispatch.adopt(old, self.owner)
            finally:
                self._publisher.release(old)
                self._owner.unlock(old)
            total += adopted
            log.warning("batches of a dead runner taken over", owner=old, batches=adopted)
        return total

    def _proven_gone(self, old: int) -> bool:
        """Whether both the session and the connection of an owner are gone; if so, both are held here now."""
        if self._owner.try_lock(old):
            if self._publisher.owner_is_gone(old):
                return True
            self._owner.unlock(old)
        elif self._publisher.connection_is_gone(old):
            # It can't publish any more, but may not know yet: end its session, and take over in the next round.
            log.warning("session of a runner without a connection ended", owner=old)
            self._owner.end_session(old)
            self._publisher.release(old)
        return False

    def _resend(self, open_batch: OpenBatch, pulse: Pulse) -> tuple[int, bool]:
        """Send again what is left of a batch; answers how much went out, and whether that was all."""
        batch = self._dispatch.read_batch(self.owner, open_batch)
        if batch is None:
            return 0, True
        with self.fill(batch.queue, batch.bound, pulse, again=True) as fill:
            if fill is None or fill.full:
                return 0, False
            sent = self.send(fill, batch)
        if sent:
            self.instruments.resent(batch.queue, sent)
            log.warning("messages sent again", queue=batch.queue, batch=batch.id, messages=sent)
        return sent, sent == len(batch.promises)


def count(fill: Fill, confirmed: int, reserved: int) -> None:
    """Take what became of ``reserved`` messages into account. Room of those in doubt is not given back."""
    if fill.room is not None:
        fill.room -= reserved
    if fill.depth is not None:
        fill.depth += confirmed


def _messages(batch: Batch) -> list[Message]:
    return [Message(p.backend_id, batch.backend_name, p.args, p.kwargs) for p in batch.promises]
