"""Leases for looking at queues, under a dispatcher session of the rescuer's own that publishes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from swh_sched_runner.services.dispatch.lease import Refusal
from swh_sched_runner.services.dispatch.sender import LATE_MESSAGES_SECONDS, Sender
from swh_sched_runner.services.rescuer.look import HeldQueue
from swh_sched_runner.services.service import Heartbeat

# Runners give a lease up between two batches, or when they are asked for one that they keep.
HOLD_SECONDS = 5.0
AGAIN_SECONDS = 0.1

REASONS: Mapping[Refusal, str] = {
    "leased_elsewhere": "another session has its lease",
    "open_batch": "messages to it are in the outbox",
    "unreadable": "its length can't be read",
}


class SenderLeases:
    """See ``Leases``."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def hold(self, queue: str, heartbeat: Heartbeat) -> HeldQueue | str:
        """The lease of a queue; a second later what another rescuer held when its connection ended is ready again."""
        self._sender.keep_alive()
        left = HOLD_SECONDS
        # Messages of others in the outbox are of no run that is searched: their batches are not closed.
        while isinstance(lease := self._sender.acquire(queue, None, heartbeat, resend=True), str):
            if lease != "leased_elsewhere" or left <= 0 or heartbeat.wait(AGAIN_SECONDS):
                return f"{queue} can't be looked at: {REASONS[lease]}"
            left -= AGAIN_SECONDS
        heartbeat.wait(LATE_MESSAGES_SECONDS)
        return lease

    def keep_alive(self) -> None:
        """Keep the connections; every second or so."""
        self._sender.keep_alive()

    def close(self) -> None:
        """End the connections."""
        self._sender.close()
