"""Sends what the ledger promises, under one identity: an owner's session and its publishing connection.

Both the runner and the visit scheduler send through it. When either half of the identity breaks, the sender is
closed; whoever comes next proves it gone and takes its batches over.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from swh_sched_runner.backend.dispatch import Batch, Dispatch, OpenBatch
from swh_sched_runner.backend.owner import Owner
from swh_sched_runner.broker.publish import Filler, Message, Publisher
from swh_sched_runner.exc import DepthUnreadable, QueueRefused
from swh_sched_runner.services.service import Pulse

log = structlog.get_logger(__name__)

# Messages of a publisher that died may still be on their way into the queue. Without the wait 8 of 25 rounds
# overshot the bound, with it none (RabbitMQ 3.10).
SETTLE_SECONDS = 1.0


class Sender:
    """One identity that may send. Not to be shared between threads."""

    def __init__(self, dispatch: Dispatch, open_publisher: Callable[[int], Publisher]) -> None:
        self._dispatch = dispatch
        self._owner: Owner = dispatch.open_owner()
        try:
            self._publisher = open_publisher(self._owner.id)
        except BaseException:
            self._owner.close()
            raise

    @property
    def owner(self) -> int:
        """The identity in the ledger."""
        return self._owner.id

    def check(self) -> None:
        """Raise ``OwnershipLost`` or ``BrokerUnavailable`` when the identity is broken."""
        self._owner.check()
        self._publisher.check()

    def close(self) -> None:
        """Give the identity up; the publishing connection first, so that nothing is sent without the lock."""
        try:
            self._publisher.close()
        finally:
            self._owner.close()

    def resume(self, pulse: Pulse) -> tuple[int, set[str]]:
        """Take over what dead owners promised and send again what is open.

        Answers how many messages went out, and the queues that still have open batches: nothing new goes there.
        """
        if self._adopt():
            pulse.wait(SETTLE_SECONDS)
        resent, open_queues = 0, set()
        for batch in self._dispatch.open_batches(self.owner):
            if pulse.stopping or batch.queue in open_queues:
                open_queues.add(batch.queue)
                continue
            sent, done = self._resend(batch, pulse)
            resent += sent
            if not done:
                open_queues.add(batch.queue)
        return resent, open_queues

    def fill(
        self, queue: str, bound: int | None, pulse: Pulse, work: Callable[[Filler, int | None], int]
    ) -> int | None:
        """Call ``work(filler, room)`` as the only filler of a queue; None if it is somebody else's or refused."""
        try:
            with self._publisher.fill(queue, bound) as filler:
                if filler is None:
                    return None
                if self._dispatch.promised_by_others(self.owner, queue):
                    pulse.wait(SETTLE_SECONDS)
                return work(filler, filler.room())
        except (DepthUnreadable, QueueRefused) as error:
            log.error("queue left alone", queue=queue, reason=str(error))
            return None

    def send(self, filler: Filler, batch: Batch, room: int | None) -> int:
        """Send as much of a batch as there is room for; answers how many messages the broker confirmed.

        The rest stays a promise of the ledger and is sent again, under the same ids.
        """
        messages = [Message(p.backend_id, batch.backend_name, p.args, p.kwargs) for p in batch.promises]
        fitting = messages if room is None else messages[:room]
        confirmed = filler.send(fitting, self._owner.check_soon) if fitting else set()
        self._dispatch.close_batch(self.owner, batch.id, [m.id for m in messages if m.id not in confirmed])
        if len(confirmed) < len(fitting):
            log.warning(
                "messages not confirmed, they will be sent again under the same ids",
                queue=batch.queue,
                batch=batch.id,
                unconfirmed=len(fitting) - len(confirmed),
                confirmed=len(confirmed),
            )
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
        batch = self._dispatch.read_batch(self.owner, open_batch)
        if batch is None:
            return 0, True

        def work(filler: Filler, room: int | None) -> int:
            return self.send(filler, batch, room)

        sent = self.fill(batch.queue, batch.bound, pulse, work) or 0
        if sent:
            log.warning("messages sent again", queue=batch.queue, batch=batch.id, messages=sent)
        return sent, sent == len(batch.promises)
