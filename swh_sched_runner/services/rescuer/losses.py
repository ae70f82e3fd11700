"""Workers of which events were lost, as the audit of their task-started shows: rule 5 does not wait for those."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from swh_sched_runner.backend.workers.watched import WatchedLife
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.services.rescuer.pauses import UNDECIDED_PERIODS


class Losses:
    """What was missing of each life when its runs were looked at, and until when more of that changes nothing.

    Where events are lost all the time, the queues of runs that have just ended would be searched in each round.
    """

    def __init__(self, settings: RescuerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._known: dict[int, tuple[int, float]] = {}

    def found(self, lives: Iterable[WatchedLife]) -> dict[int, int]:
        """Of the lives that go on those that lost more events than before, and how many in all."""
        now = self._clock()
        missing = {life.id: life.missing for life in lives if life.ended_by is None and life.missing}
        return {life: lost for life, lost in missing.items() if self._is_new(life, lost, now)}

    def take(self, lives: Iterable[WatchedLife]) -> frozenset[int]:
        """The same, once."""
        found = self.found(lives)
        until = self._clock() + UNDECIDED_PERIODS * self._settings.period_seconds
        living = {life.id for life in lives}
        self._known = {life: known for life, known in self._known.items() if life in living}
        self._known |= {life: (lost, until) for life, lost in found.items()}
        return frozenset(found)

    def _is_new(self, life: int, lost: int, now: float) -> bool:
        before, until = self._known.get(life, (0, now))
        return lost > before and now >= until
