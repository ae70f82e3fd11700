"""Which workers consume a queue is asked again where its consumers are not as many as are known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import structlog

from swh_sched_runner.backend.workers.watched import WatchedLife, WatchedLives
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.exc import BrokerUnavailable
from swh_sched_runner.services.answers import Inspect, answers_of
from swh_sched_runner.services.rescuer.pauses import UNDECIDED_PERIODS

log = structlog.get_logger(__name__)


class Consumers:
    """Asks workers for their queues, which may change while they live: add_consumer and cancel_consumer."""

    def __init__(
        self, lives: WatchedLives, inspect: Inspect, settings: RescuerSettings, clock: Callable[[], float]
    ) -> None:
        self._lives = lives
        self._inspect = inspect
        self._settings = settings
        self._clock = clock
        self._rest: dict[str, float] = {}  # queues: until when nobody is asked because of them

    def ask_again(self, queues: Collection[str], lives: Iterable[WatchedLife]) -> frozenset[str]:
        """Ask all these lives, because of these queues; answers of which queues other consumers are known now."""
        now = self._clock()
        self._rest = {queue: until for queue, until in self._rest.items() if until > now}
        if not set(queues) - self._rest.keys():
            return frozenset()
        self._rest |= dict.fromkeys(queues, now + UNDECIDED_PERIODS * self._settings.period_seconds)
        known = {life.id: life for life in lives}
        try:
            answers = [answer for answer in answers_of(self._inspect, known.values()) if answer.queues is not None]
        except BrokerUnavailable as error:
            log.warning("workers not asked for their queues", queues=sorted(queues), reason=str(error))
            return frozenset()
        self._lives.record_answers(answers)
        changed: set[str] = set()
        for answer in answers:
            changed |= set(answer.queues or ()) ^ set(known[answer.id].queues or ())
        return frozenset(changed & set(queues))
