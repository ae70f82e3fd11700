"""The right to fill a queue, as its filler counts."""

from __future__ import annotations

import math

from swh_sched_runner.backend.dispatch.outbox import QueueSeen
from swh_sched_runner.backend.dispatch.ready import QueueState
from swh_sched_runner.broker.publish import Filler

# The drain rate of a queue is averaged over about so long.
DRAIN_SECONDS = 60.0


class Fill:
    """The sole right to fill a queue, until the context that gave it ends; and how much fits in, counted as it goes."""

    def __init__(self, queue: str, max_queue_length: int | None, filler: Filler, state: QueueState) -> None:
        self.queue = queue
        self.max_queue_length = max_queue_length
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
