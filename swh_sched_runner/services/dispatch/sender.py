"""Publishes under one identity: a dispatcher session in the database, and its publishing connection.

The runner and the visit scheduler each have one. When either half breaks, the sender is closed; whoever comes next
proves it gone and takes its batches over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import structlog

from swh_sched_runner.backend.dispatch.outbox import Batch, Dispatch, OpenBatch, QueueSeen
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.broker.interface import Message, Publisher, PublishResult
from swh_sched_runner.exc import DepthUnreadable, QueueRefused, StatementRefused
from swh_sched_runner.services.dispatch.account import Account
from swh_sched_runner.services.dispatch.lease import QueueLease, Refusal
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat

log = structlog.get_logger(__name__)

# Messages of a publisher that died may still be on their way into the queue. Without the wait 8 of 25 rounds
# exceeded the limit, with it none (RabbitMQ 3.10).
LATE_MESSAGES_SECONDS = 1.0
# How often a sender looks whether its identity is whole, and whether another one left batches behind.
MAINTAIN_SECONDS = 1.0
# So many leases are kept at most, of queues that have nothing due.
MOST_KEPT = 16
# Who finds a queue leased elsewhere asks for its lease, no more often than this.
ASK_SECONDS = 0.1


class Sender:
    """A session that may publish. Not to be shared between threads, but for ``close_batch``."""

    def __init__(
        self, dispatch: Dispatch, open_publisher: Callable[[int], Publisher], service: str, instruments: Instruments
    ) -> None:
        self.account = Account(instruments)
        self._instruments = instruments
        self._open_queues: set[str] = set()
        self._kept: dict[str, QueueLease] = {}
        self._asked: dict[str, float] = {}  # when leases were asked for
        self._dispatch = dispatch
        self._session: DispatcherSession = dispatch.open_session(service)
        try:
            self._publisher = open_publisher(self._session.id)
        except BaseException:
            self._session.close()
            raise
        self._next_maintenance = 0.0

    @property
    def session_id(self) -> int:
        """The id of the dispatcher session."""
        return self._session.id

    @property
    def session(self) -> DispatcherSession:
        """The dispatcher session, to sleep on."""
        return self._session

    def has_open_batch(self, queue: str) -> bool:
        """Whether messages of ours to a queue are still to be sent again: nothing new may go there before."""
        return queue in self._open_queues

    def close(self) -> None:
        """Give the identity up; the publishing connection first, so that nothing is sent without the session's lock."""
        try:
            self._publisher.close()
        finally:
            self._session.close()

    def keep_alive(self) -> None:
        """Keep the publishing connection alive, and release leases that others ask for; every second or so.

        Raises ``BrokerUnavailable`` or ``SessionLost``.
        """
        self._publisher.check()
        self._session.check_soon()
        for queue in self._session.asked_for():
            if (lease := self._kept.pop(queue, None)) is not None:
                lease.release()

    def maintain(self, heartbeat: Heartbeat, *, busy: bool = False) -> int:
        """Once a second take over batches of dead sessions; and send open batches again, not more often if ``busy``.

        Answers how many messages were confirmed. Raises ``SessionLost`` or ``BrokerUnavailable`` when the identity is
        broken.
        """
        time_has_come = time.monotonic() >= self._next_maintenance
        if time_has_come:
            self._session.check()
            self._publisher.check()
            if self._take_over():
                heartbeat.wait(LATE_MESSAGES_SECONDS)
        elif busy or not self._open_queues:
            return 0
        resent = self._resend_all(heartbeat)
        if time_has_come:
            self._next_maintenance = time.monotonic() + MAINTAIN_SECONDS
        return resent

    def acquire(
        self, queue: str, max_queue_length: int | None, heartbeat: Heartbeat, *, resend: bool = False
    ) -> QueueLease | Refusal:
        """Lease a queue, or say why not. ``resend``: for messages of ours that are in the outbox.

        What else is to be leased waits for messages of other sessions that are in the outbox for the queue. A lease
        that another session has is asked for: try again soon. Raises ``BrokerUnavailable``, ``SessionLost``.
        """
        kept = self._kept.pop(queue, None)
        try:
            if kept is not None:
                return self._acquired(kept.renew(max_queue_length))
            if not self._publisher.lock(queue):
                self._ask_for(queue)
                return "leased_elsewhere"
        except (DepthUnreadable, QueueRefused) as error:
            if kept is not None:
                kept.release()
            return self._unreadable(queue, max_queue_length, error)
        try:
            lease = self._examine(queue, max_queue_length, heartbeat, resend)
        except (DepthUnreadable, QueueRefused) as error:
            self._publisher.unlock(queue)
            return self._unreadable(queue, max_queue_length, error)
        except BaseException:
            self._publisher.unlock(queue)
            raise
        if lease is None:
            # Who waited here would hold the lock that the other one needs to send its messages.
            self._publisher.unlock(queue)
            return "open_batch"
        return self._acquired(lease)

    def _ask_for(self, queue: str) -> None:
        """Ask whoever has a lease to release it, if that one keeps it and does not use it."""
        now = time.monotonic()
        if now >= self._asked.get(queue, 0.0) + ASK_SECONDS:
            self._asked[queue] = now
            self._session.ask_for(queue)

    def give_up(self, lease: QueueLease, *, keep: bool) -> None:
        """Release a lease; or ``keep`` it where that is possible, until it is used again or another session asks."""
        lasts = self._publisher.locks_last and self._session.listens
        if keep and lasts and lease.settled and len(self._kept) < MOST_KEPT:
            self._kept[lease.queue] = lease
        else:
            lease.release()

    def renew_last(self) -> None:
        """Read the depth of the queue whose lease was kept last: it is likely to be the next one."""
        if self._kept:
            queue, lease = self._kept.popitem()
            try:
                self._kept[queue] = lease.renew(lease.max_queue_length)
            except (DepthUnreadable, QueueRefused):  # said when it is wanted
                lease.release()

    def _acquired(self, lease: QueueLease) -> QueueLease:
        self.account.can_be_filled(lease.queue)
        self._instruments.queue_seen(lease.queue, lease.depth, lease.max_queue_length)
        return lease

    def _examine(
        self, queue: str, max_queue_length: int | None, heartbeat: Heartbeat, resend: bool
    ) -> QueueLease | None:
        state = self._dispatch.queue_state(self.session_id, queue)
        if state.others_unconfirmed:
            if not resend:
                return None
            heartbeat.wait(LATE_MESSAGES_SECONDS)
        return QueueLease(self._publisher, queue, max_queue_length, self._publisher.depth(queue), state)

    def _unreadable(self, queue: str, max_queue_length: int | None, error: Exception) -> Refusal:
        self._instruments.queue_seen(queue, None, max_queue_length)
        self.account.left_alone(queue, str(error))
        return "unreadable"

    def publish(self, lease: QueueLease, batch: Batch) -> PublishResult:
        """Send the messages of a batch, which capacity is reserved for; the broker's confirms come later."""
        messages = [Message(m.backend_id, batch.backend_name, m.args, m.kwargs) for m in batch.messages]
        return lease.publish(messages, self._session.check_soon)

    def wait_for_confirms(self, lease: QueueLease, batch: Batch, result: PublishResult) -> list[str]:
        """Wait until it is known which messages of a batch the broker has; answers the ids of the others.

        Those stay in the outbox and are sent again, under the same ids.
        """
        lease.wait_for_confirms(result)
        self._instruments.sent(batch.queue, len(result.confirmed), time.monotonic() - result.began)
        self._instruments.queue_seen(batch.queue, lease.depth, lease.max_queue_length)
        self.account.sent(batch, result)
        done = result.confirmed | result.unsendable.keys()
        left = [message.backend_id for message in batch.messages if message.backend_id not in done]
        if left:
            self._open_queues.add(batch.queue)
        return left

    def close_batch(self, batch: Batch, left: list[str], result: PublishResult, seen: QueueSeen) -> str | None:
        """Take a batch out of the outbox, all but what is left; any thread may.

        Answers why the database lets no run end of what can't be sent, which is left then too; None if it does.
        """
        try:
            self._dispatch.close_batch(
                self.session_id, batch.id, left, seen, unsendable=result.unsendable, progress=result.progress
            )
        except StatementRefused as error:
            if not result.unsendable:
                raise
            kept = [*left, *result.unsendable]
            self._dispatch.close_batch(self.session_id, batch.id, kept, seen, progress=bool(result.confirmed))
            return str(error)
        return None

    def left_open(self, queue: str, reason: str) -> None:
        """A batch for a queue stays in the outbox, since the database refuses something."""
        self._open_queues.add(queue)
        self.account.left_open(queue, reason)

    # Batches that are not confirmed: of dead sessions, and our own.

    def _take_over(self) -> int:
        """Take over the batches of sessions that are proven gone, one successor at a time; answers how many.

        Two that tried at once, one with the session's lock and one with its exclusive queue, would bar each other.
        """
        total = 0
        for old in self._dispatch.other_sessions(self.session_id):
            if not self._session.begin_take_over(old):
                continue
            try:
                total += self._take_over_from(old)
            finally:
                self._session.end_take_over(old)
        return total

    def _take_over_from(self, old: int) -> int:
        if not self._proven_gone(old):
            return 0
        try:
            batches = self._dispatch.take_over(old, self.session_id)
        finally:
            self._publisher.release(old)
            self._session.unlock(old)
        if batches:  # else another successor was faster
            log.warning("batches of a dead session taken over", session_id=old, batches=batches)
        return batches

    def _proven_gone(self, old: int) -> bool:
        """Whether both the session and the connection of another sender are gone; if so, both are locked here now."""
        if self._session.try_lock(old):
            if self._publisher.session_is_gone(old):
                return True
            self._session.unlock(old)
        elif self._publisher.connection_is_gone(old):
            # It can't publish any more, but may not know yet: end its session, and take over in the next round.
            log.warning("session without a publishing connection ended", session_id=old)
            self._session.end_session(old)
            self._publisher.release(old)
        return False

    def _resend_all(self, heartbeat: Heartbeat) -> int:
        resent, left, tried = 0, set(), set()
        for batch in self._dispatch.open_batches(self.session_id):
            if heartbeat.stopping or not batch.due or batch.queue in tried:
                left.add(batch.queue)
                continue
            confirmed, done = self._try(batch, heartbeat)
            resent += confirmed
            if not done:
                left.add(batch.queue)
                tried.add(batch.queue)
        self._open_queues = left
        return resent

    def _try(self, batch: OpenBatch, heartbeat: Heartbeat) -> tuple[int, bool]:
        """Send a batch again, and let others go on where the database refuses it for what is in it."""
        try:
            return self._resend(batch, heartbeat)
        except StatementRefused as error:
            self._dispatch.note_attempt(self.session_id, batch.id)
            self.account.left_open(batch.queue, str(error))
            return 0, False

    def _resend(self, open_batch: OpenBatch, heartbeat: Heartbeat) -> tuple[int, bool]:
        """Send again what is left of a batch; answers how much was confirmed, and whether that was all."""
        batch = self._dispatch.read_batch(self.session_id, open_batch)
        if batch is None:
            return 0, True
        self.account.unsendable(batch, batch.unsendable)
        with self._leased(batch, heartbeat) as lease:
            if lease is None or lease.full:
                return 0, False
            self._dispatch.note_attempt(self.session_id, batch.id)
            confirmed, left = self._send(lease, batch)
        self.account.sent_again(batch, confirmed)
        return confirmed, not left

    @contextmanager
    def _leased(self, batch: Batch, heartbeat: Heartbeat) -> Iterator[QueueLease | None]:
        lease = self.acquire(batch.queue, batch.max_queue_length, heartbeat, resend=True)
        if not isinstance(lease, QueueLease):
            yield None
            return
        try:
            yield lease
        finally:
            lease.release()

    def _send(self, lease: QueueLease, batch: Batch) -> tuple[int, int]:
        """Send as much of a batch as fits, and wait; answers how many messages were confirmed, and are left."""
        fitting = attrs.evolve(batch, messages=batch.messages[: lease.capacity])
        lease.reserve(len(fitting.messages))
        result = self.publish(lease, fitting)
        left = self.wait_for_confirms(lease, batch, result)
        refused = self.close_batch(batch, left, result, lease.seen())
        if refused is not None:
            self.left_open(batch.queue, refused)
            return len(result.confirmed), len(left) + len(result.unsendable)
        return len(result.confirmed), len(left)
