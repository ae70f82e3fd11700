"""When a paused queue is drained: no message of it is left, in the broker or with a worker."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal

import attrs

from swh_sched_runner.backend.dispatch import limits
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import BrokerUnavailable, DatabaseUnavailable, DepthUnreadable
from swh_sched_runner.insight.queues import QueueStatus, from_database

CHECK_SECONDS = 1.0
# Runners obey a pause within a second; what they had grabbed just before is in the queue by then.
OBEYED_SECONDS = 2.0


@attrs.define(slots=True, frozen=True)
class DrainStatus:
    """What is left of the queue (``unreadable`` while a server doesn't tell), and whether that is the end.

    While it is ``draining``, check again after ``wait_seconds``.
    """

    state: Literal["draining", "drained", "timed_out"]
    left: QueueStatus
    wait_seconds: float = 0.0


class Drain:
    """Watches a queue that is paused already. Visits that workers hold are not seen: they have no runs.

    For one thread. ``timeout_seconds`` count from the first check; None waits for ever.
    """

    def __init__(
        self,
        database: Database,
        queues: Queues,
        settings: BrokerSettings,
        queue: str,
        timeout_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._queues = queues
        self._settings = settings
        self._queue = queue
        self._timeout = math.inf if timeout_seconds is None else timeout_seconds
        self._clock = clock
        self._deadline: float | None = None
        self._clear_since = math.inf

    def require_depth(self) -> None:
        """Raise ``BrokerUnavailable`` or ``DepthUnreadable`` where the broker can't tell what is left."""
        self._queues.depth(self._queue)

    def check(self) -> DrainStatus:
        """What is left now. Drained is what has been clear for as long as messages may still be on their way."""
        if self._deadline is None:
            self._deadline = self._clock() + self._timeout
        left, now = self._left(), self._clock()
        clear = not (left.unreadable or left.depth or left.in_flight > left.unconfirmed_runs)
        self._clear_since = min(self._clear_since, now) if clear else math.inf
        # What is unconfirmed may be on its way until the runner gives the connection up that does not confirm it.
        patience = self._settings.confirm_timeout_seconds if left.unconfirmed else OBEYED_SECONDS
        if now - self._clear_since >= patience:
            return DrainStatus("drained", left)
        if now >= self._deadline:
            return DrainStatus("timed_out", left)
        return DrainStatus("draining", left, min(CHECK_SECONDS, self._deadline - now))

    def _left(self) -> QueueStatus:
        nothing = QueueStatus(self._queue, False, [], None)
        try:
            found = from_database(self._database.run(limits.standing), (), self._settings.priority_queue)
            left = next((row for row in found if row.queue == self._queue), nothing)
            left.depth = self._queues.depth(self._queue)
        except (BrokerUnavailable, DatabaseUnavailable, DepthUnreadable) as error:
            return attrs.evolve(nothing, unreadable=str(error))
        return left
