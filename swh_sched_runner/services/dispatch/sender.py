"""Sends the messages of the outbox, under one identity: a dispatcher session and its publishing connection.

Both the runner and the visit scheduler send through it. When either half of the identity breaks, the sender is
closed; whoever comes next proves it gone and takes its batches over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import attrs
import structlog

from swh_sched_runner.backend.dispatch.outbox import Batch, Dispatch, OpenBatch, QueueSeen
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.broker.publish import Filler, Message, Publisher, Sent
from swh_sched_runner.exc import DepthUnreadable, QueueRefused, StatementRefused
from swh_sched_runner.services.dispatch.account import Account
from swh_sched_runner.services.dispatch.fill import Fill
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat

log = structlog.get_logger(__name__)

# Messages of a publisher that died may still be on their way into the queue. Without the wait 8 of 25 rounds
# overshot the max_queue_length, with it none (RabbitMQ 3.10).
SETTLE_SECONDS = 1.0
# How often a sender looks whether its identity is whole, and whether another one left batches behind.
MAINTAIN_SECONDS = 1.0

Refusal = Literal["leased_elsewhere", "open_batch", "unreadable"]


class Sender:
    """One identity that may send. Not to be shared between threads."""

    def __init__(
        self, dispatch: Dispatch, open_publisher: Callable[[int], Publisher], service: str, instruments: Instruments
    ) -> None:
        self.instruments = instruments
        self.open_queues: set[str] = set()
        self._dispatch = dispatch
        self._session: DispatcherSession = dispatch.open_session(service)
        try:
            self._publisher = open_publisher(self._session.id)
        except BaseException:
            self._session.close()
            raise
        self._next_maintenance = 0.0
        self._refusals: dict[str, Refusal] = {}
        self.account = Account(instruments)

    @property
    def session_id(self) -> int:
        """The identity in the outbox."""
        return self._session.id

    def close(self) -> None:
        """Give the identity up; the publishing connection first, so that nothing is sent without the lock."""
        try:
            self._publisher.close()
        finally:
            self._session.close()

    def keep_alive(self) -> None:
        """Keep the publishing connection alive; every second or so. Raises ``BrokerUnavailable``."""
        self._publisher.check()

    def fall_asleep(self, seconds: float) -> bool:
        """See ``DispatcherSession.fall_asleep``."""
        return self._session.fall_asleep(seconds)

    def wait(self, seconds: float) -> bool:
        """Wait until somebody made tasks due; True then. See ``DispatcherSession.wait``."""
        return self._session.wait(seconds)

    def wake_up(self) -> None:
        """See ``DispatcherSession.wake_up``."""
        self._session.wake_up()

    def maintain(self, heartbeat: Heartbeat, *, busy: bool = False) -> int:
        """Once a second, take over batches of dead sessions; and send again what is open, not more often if ``busy``.

        Answers how many messages went out. ``open_queues`` still have open batches: nothing new may go there. Raises
        ``SessionLost`` or ``BrokerUnavailable`` when the identity is broken.
        """
        time_has_come = time.monotonic() >= self._next_maintenance
        if time_has_come:
            self._session.check()
            self._publisher.check()
            if self._take_over():
                heartbeat.wait(SETTLE_SECONDS)
        elif busy or not self.open_queues:
            return 0
        resent = self._resend_all(heartbeat)
        if time_has_come:
            self._next_maintenance = time.monotonic() + MAINTAIN_SECONDS
        return resent

    def _resend_all(self, heartbeat: Heartbeat) -> int:
        resent, left, tried = 0, set(), set()
        for batch in self._dispatch.open_batches(self.session_id):
            if heartbeat.stopping or not batch.due or batch.queue in tried:
                left.add(batch.queue)
                continue
            sent, done = self._try(batch, heartbeat)
            resent += sent
            if not done:
                left.add(batch.queue)
                tried.add(batch.queue)
        self.open_queues = left
        return resent

    @contextmanager
    def fill(
        self, queue: str, max_queue_length: int | None, heartbeat: Heartbeat, *, again: bool = False
    ) -> Iterator[Fill | None]:
        """Be the only filler of a queue; None if it is somebody else's, or can't be read: see ``refusal``.

        A queue is also somebody else's who has messages to it in the outbox and could not send them yet; not where
        our own are sent ``again``.
        """
        with ExitStack() as lock:
            try:
                filler = lock.enter_context(self._publisher.fill(queue, max_queue_length))
                found = (
                    "leased_elsewhere"
                    if filler is None
                    else self._take(queue, max_queue_length, filler, heartbeat, again)
                )
            except (DepthUnreadable, QueueRefused) as error:
                self._leave_alone(queue, max_queue_length, str(error))
                found = "unreadable"
            if isinstance(found, Fill):
                self._refusals.pop(queue, None)
                yield found
            else:
                self._refusals[queue] = found
                yield None

    def refusal(self, queue: str) -> Refusal | None:
        """Why a queue could not be filled when that was tried last; None if it could."""
        return self._refusals.get(queue)

    def _take(
        self, queue: str, max_queue_length: int | None, filler: Filler, heartbeat: Heartbeat, again: bool
    ) -> Fill | Refusal:
        state = self._dispatch.queue_state(self.session_id, queue)
        if state.others_unconfirmed:
            if not again:
                # Who waits here holds the lock that the other one needs to send its messages.
                return "open_batch"
            heartbeat.wait(SETTLE_SECONDS)
        fill = Fill(queue, max_queue_length, filler, state)
        self.account.can_be_filled(queue)
        self.instruments.queue_seen(queue, fill.depth, max_queue_length)
        return fill

    def _leave_alone(self, queue: str, max_queue_length: int | None, reason: str) -> None:
        self.instruments.queue_seen(queue, None, max_queue_length)
        self.account.left_alone(queue, reason)

    def write(self, fill: Fill, batch: Batch) -> Sent:
        """Send a batch that fits into the room; the broker's confirms come later."""
        messages = [Message(p.backend_id, batch.backend_name, p.args, p.kwargs) for p in batch.messages]
        return fill.filler.write(messages, self._session.check_soon)

    def finish(self, fill: Fill, batch: Batch, sent: Sent) -> list[str]:
        """Wait for the confirms of what was written of a batch; answers the ids that stay messages.

        Those are sent again, under the same ids.
        """
        fill.filler.settle(sent)
        confirmed = len(sent.confirmed)
        if fill.depth is not None:
            fill.depth += confirmed
        self.instruments.sent(batch.queue, confirmed, time.monotonic() - sent.began)
        self.instruments.queue_seen(batch.queue, fill.depth, fill.max_queue_length)
        self.account.sent(batch, sent)
        settled = sent.confirmed | sent.unsendable.keys()
        left = [message.backend_id for message in batch.messages if message.backend_id not in settled]
        if left:
            self.open_queues.add(batch.queue)
        return left

    def send(self, fill: Fill, batch: Batch) -> tuple[int, int]:
        """Send as much of a batch as there is room for, and wait; answers how many messages the broker confirmed, and
        how many are left.

        The rest stays in the outbox.
        """
        fitting = batch if fill.room is None else attrs.evolve(batch, messages=batch.messages[: fill.room])
        sent = self.write(fill, fitting)
        left = self.finish(fill, batch, sent)
        refusal = self.close_batch(batch, left, sent, fill.seen())
        if refusal is not None:
            self.account.left_open(batch.queue, refusal)
            self.open_queues.add(batch.queue)
            return len(sent.confirmed), len(left) + len(sent.unsendable)
        return len(sent.confirmed), len(left)

    def close_batch(self, batch: Batch, left: list[str], sent: Sent, seen: QueueSeen) -> str | None:
        """Take a batch out of the outbox, all but what is left; any thread may.

        Answers why the database lets no run end of what can't be sent, which is left then too; None if it does.
        """
        try:
            self._dispatch.close_batch(
                self.session_id, batch.id, left, seen, unsendable=sent.unsendable, progress=sent.progress
            )
        except StatementRefused as error:
            if not sent.unsendable:
                raise
            kept = [*left, *sent.unsendable]
            self._dispatch.close_batch(self.session_id, batch.id, kept, seen, progress=bool(sent.confirmed))
            return str(error)
        return None

    def _take_over(self) -> int:
        """Take over the batches of sessions that are proven gone; answers how many."""
        total = 0
        for old in self._dispatch.other_sessions(self.session_id):
            if not self._proven_gone(old):
                continue
            try:
                taken_over = self._dispatch.take_over(old, self.session_id)
            finally:
                self._publisher.release(old)
                self._session.unlock(old)
            total += taken_over
            log.warning("batches of a dead runner taken over", session_id=old, batches=taken_over)
        return total

    def _proven_gone(self, old: int) -> bool:
        """Whether both the session and the connection of another one are gone; if so, both are held here now."""
        if self._session.try_lock(old):
            if self._publisher.session_is_gone(old):
                return True
            self._session.unlock(old)
        elif self._publisher.connection_is_gone(old):
            # It can't publish any more, but may not know yet: end its session, and take over in the next round.
            log.warning("session of a runner without a connection ended", session_id=old)
            self._session.end_session(old)
            self._publisher.release(old)
        return False

    def _try(self, batch: OpenBatch, heartbeat: Heartbeat) -> tuple[int, bool]:
        """Send a batch again, and let others go on where the database refuses it for what is in it."""
        try:
            return self._resend(batch, heartbeat)
        except StatementRefused as error:
            self._dispatch.note_attempt(self.session_id, batch.id)
            self.account.left_open(batch.queue, str(error))
            return 0, False

    def _resend(self, open_batch: OpenBatch, heartbeat: Heartbeat) -> tuple[int, bool]:
        """Send again what is left of a batch; answers how much went out, and whether that was all."""
        batch = self._dispatch.read_batch(self.session_id, open_batch)
        if batch is None:
            return 0, True
        self.account.unsendable(batch, batch.unsendable)
        with self.fill(batch.queue, batch.max_queue_length, heartbeat, again=True) as fill:
            if fill is None or fill.full:
                return 0, False
            self._dispatch.note_attempt(self.session_id, batch.id)
            sent, left = self.send(fill, batch)
        self.account.sent_again(batch, sent)
        return sent, not left
