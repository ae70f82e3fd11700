"""The lease of a queue: the sole right to publish to it, and everything that is counted of it meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Literal

from swh_sched_runner.backend.dispatch.outbox import QueueSeen
from swh_sched_runner.backend.dispatch.ready import QueueState
from swh_sched_runner.broker.interface import Message, Publisher, PublishResult

# The drain rate of a queue is averaged over about so long.
DRAIN_SECONDS = 60.0
# A depth that was read so shortly before is not read again.
FRESH_SECONDS = 0.02

# Why a lease is not to be had: another session has it, or has messages to the queue in its outbox; or the queue's
# depth can't be read.
Refusal = Literal["leased_elsewhere", "open_batch", "unreadable"]


class QueueLease:
    """The sole right to publish to a queue, until ``release``. Nobody else writes what stands here.

    ``depth``: ready messages, those found when it was acquired and those confirmed since. ``drained``: messages a
    second that left the queue since its last lease, ``drain_rate`` the same averaged; None where unknown.
    """

    def __init__(
        self, publisher: Publisher, queue: str, max_queue_length: int | None, depth: int, state: QueueState
    ) -> None:
        self.queue = queue
        self.max_queue_length = max_queue_length
        self.depth = depth
        self.drained = _drained(state, depth)
        self.drain_rate = _drain_rate(state, self.drained)
        self._publisher = publisher
        self._reserved = 0  # for batches that are being grabbed, or published and not confirmed
        self._counted = time.monotonic()

    @property
    def capacity(self) -> int | None:
        """How many more messages fit; None for any number."""
        return None if self.max_queue_length is None else max(0, self.max_queue_length - self.depth - self._reserved)

    @property
    def full(self) -> bool:
        """Whether nothing more fits."""
        return self.capacity == 0

    def reserve(self, messages: int) -> None:
        """Keep capacity for a batch."""
        self._reserved += messages

    def give_back(self, messages: int) -> None:
        """The batch turned out to be smaller."""
        self._reserved -= messages

    def publish(self, messages: Sequence[Message], check_session: Callable[[], None]) -> PublishResult:
        """Send messages that capacity is reserved for. See ``Publisher.publish``."""
        return self._publisher.publish(self.queue, messages, self.max_queue_length, check_session)

    def wait_for_confirms(self, result: PublishResult) -> None:
        """Wait until it is known which of the messages the broker has; what is unknown stays reserved."""
        self._publisher.wait_for_confirms(result)
        self.depth += len(result.confirmed)
        self._counted = time.monotonic()
        self._reserved -= len(result.confirmed) + len(result.unsendable)

    def ready_ids(self, most: int) -> frozenset[str] | None:
        """The ids of all ready messages. See ``Publisher.ready_ids``."""
        return self._publisher.ready_ids(self.queue, most)

    def seen(self) -> QueueSeen:
        """The queue as it looks by our own count."""
        return QueueSeen(self.queue, self.depth, self.drain_rate)

    def renew(self, max_queue_length: int | None) -> QueueLease:
        """A lease that was kept, with the depth of now. Raises what ``Publisher.lock`` and ``depth`` raise."""
        self._publisher.lock(self.queue)
        seconds = time.monotonic() - self._counted
        if seconds < FRESH_SECONDS and max_queue_length == self.max_queue_length:
            return self
        state = QueueState(self.depth, self.drain_rate, seconds, False)
        return QueueLease(self._publisher, self.queue, max_queue_length, self._publisher.depth(self.queue), state)

    def release(self) -> None:
        """Let others publish. Never raises."""
        self._publisher.unlock(self.queue)

    @property
    def settled(self) -> bool:
        """Whether all that was published is confirmed."""
        return self._reserved == 0


def _drained(state: QueueState, depth: int) -> float | None:
    """Messages a second that left the queue since its last lease; None where that can't be told."""
    if state.depth is None or not state.seconds or state.seconds < 0 or depth > state.depth:
        return None
    return (state.depth - depth) / state.seconds


def _drain_rate(state: QueueState, drained: float | None) -> float | None:
    if drained is None or state.drain_rate is None:
        return state.drain_rate if drained is None else drained
    weight = 1 - math.exp(-(state.seconds or 0) / DRAIN_SECONDS)
    return state.drain_rate + weight * (drained - state.drain_rate)
