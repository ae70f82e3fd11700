"""Records the heartbeats of workers, and asks each new life once for its pool and queues."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from swh_sched_runner.backend.workers.lives import Uninspected
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.broker.celery.events import parse
from swh_sched_runner.broker.interface import HeartbeatConsumer
from swh_sched_runner.exc import BrokerUnavailable
from swh_sched_runner.services.answers import Inspect, answers_of
from swh_sched_runner.services.listener.signs import signs_of
from swh_sched_runner.services.service import Heartbeat

RECORD_SECONDS = 1.0
TRIM_SECONDS = 3_600.0

log = structlog.get_logger(__name__)


class Heartbeats:
    """Folds a second's heartbeats and records them in one transaction, however many workers there are."""

    name = "heartbeats"

    def __init__(
        self,
        workers: Workers,
        open_consumer: Callable[[], HeartbeatConsumer],
        inspect: Inspect,
        record_seconds: float = RECORD_SECONDS,
    ) -> None:
        self._workers = workers
        self._consumer = open_consumer()
        self._inspect = inspect
        self._record_seconds = record_seconds
        self._next_trim = 0.0

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """Receive for a second and record; ask new lives."""
        bodies = self._consumer.receive(self._record_seconds)
        heartbeat.beat("no heartbeats of workers")
        # What can't be read is dropped: the next one comes two seconds later.
        signs = signs_of(event for body in bodies for event in parse(body))
        if signs is not None:
            self._workers.record(signs)
            self._ask(self._workers.uninspected())
            heartbeat.beat(f"recorded heartbeats of {len(signs.signs)} workers")
        if time.monotonic() >= self._next_trim:
            self._next_trim = time.monotonic() + TRIM_SECONDS
            self._workers.trim()
        return True

    def _ask(self, lives: Sequence[Uninspected]) -> None:
        if not lives:
            return
        try:
            answers = answers_of(self._inspect, lives)
        except BrokerUnavailable as error:
            log.warning("workers not asked for their pools", workers=len(lives), reason=str(error))
            return
        self._workers.record_answers(answers)

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Nothing to wait for: receiving waits itself."""

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
