"""Runs that were searched in vain rest, and so do their queues: nobody publishes to a queue while it is searched."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from swh_sched_runner.backend.tasks.lost import Suspect
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.services.rescuer.evidence import Findings
from swh_sched_runner.services.rescuer.suspicion import Candidate

# What could not be told is asked again after so many periods.
UNDECIDED_PERIODS = 10


@attrs.define(slots=True, frozen=True)
class _Pause:
    """Until when a run is left alone, unless it moves or another rule may judge it; ``undecided`` says why, if so."""

    until: float
    rule: str
    state: str
    undecided: tuple[str, str] | None


class Pauses:
    """Which runs rest until when."""

    def __init__(self, settings: RescuerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._runs: dict[int, _Pause] = {}
        self._queues: dict[str, float] = {}  # for runs that wait: until when a queue is not searched

    def rests(self, candidate: Candidate) -> bool:
        """Whether a run is not to be searched now."""
        now, pause = self._clock(), self._runs.get(candidate.suspect.id)
        seen = (candidate.rule, candidate.suspect.state)
        if pause is not None and (pause.rule, pause.state) == seen and now < pause.until:
            return True
        return candidate.rule == "3" and now < self._queues.get(candidate.queue, now)

    def take_in(self, suspects: Iterable[Suspect], candidates: Iterable[Candidate], findings: Findings) -> None:
        """Let those rest that were found or can't be judged; what rests is as undecided as it was."""
        for candidate in candidates:
            self._take_in(candidate, findings)
        # Those that ended or moved are forgotten.
        states = {suspect.id: suspect.state for suspect in suspects}
        self._runs = {run: pause for run, pause in self._runs.items() if states.get(run) == pause.state}
        settled = {verdict.suspect.id for verdict in findings.verdicts} | findings.held.keys()
        for run, pause in self._runs.items():
            if pause.undecided is not None and run not in settled:
                findings.undecided.setdefault(run, pause.undecided)

    def _take_in(self, candidate: Candidate, findings: Findings) -> None:
        run = candidate.suspect.id
        if run in findings.held:  # workers take messages meanwhile
            seconds = self._settings.waiting_seconds
        elif run in findings.undecided and candidate.queue not in findings.reconsidered:
            seconds = UNDECIDED_PERIODS * self._settings.period_seconds
        else:
            return
        until = self._clock() + seconds
        self._runs[run] = _Pause(until, candidate.rule, candidate.suspect.state, findings.undecided.get(run))
        if candidate.rule == "3":
            self._queues[candidate.queue] = until
