"""Which open runs may be lost, and by which rule of docs/explanation/lost-runs.md that can be found out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import attrs

from swh_sched_runner.backend.tasks.lost import Suspect
from swh_sched_runner.backend.workers.watched import WatchedLife
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.services.rescuer.lives import is_over

Rule = Literal["1", "2", "2a", "2b", "2c", "2d", "3", "4", "5"]

# So long beyond its time a run may still be about to end.
TIMED_OUT_MARGIN_SECONDS = 60.0

RULES_OF_ENDS: Mapping[str, Rule] = {"succeeded": "2a", "closed": "2b", "left": "2c", "silent": "2d"}


@attrs.define(slots=True, frozen=True)
class Candidate:
    """A run that ``rule`` may find lost. ``life`` began it last, if that is known.

    Under rule 1 alone nothing is searched: ``reason`` says why no other rule can judge.
    """

    suspect: Suspect
    rule: Rule
    queue: str
    life: WatchedLife | None = None
    reason: str | None = None

    @property
    def life_is_over(self) -> bool:
        """Whether the rule rests on the end of the life."""
        return self.rule.startswith("2")

    @property
    def verdict(self) -> str:
        """What it means that the run is lost, in a word or two."""
        suspect = self.suspect
        match self.rule:
            case "2c":
                return "left and not returned"
            case "3" if suspect.has_begun and suspect.cancelled:
                return "cancelled"
            case "3" if suspect.received and not suspect.has_begun:
                return "received, not started"
            case "3":
                return "never delivered"
            case "4":
                return "timed out"
            case "1" | "5":
                return "event lost"
        return "worker died"


def began_by_living(suspect: Suspect, lives: Mapping[int, WatchedLife]) -> WatchedLife | None:
    """The life that executes a run and is not over: it can be asked."""
    life = lives.get(suspect.worker) if suspect.executes and suspect.worker is not None else None
    return life if life is not None and life.ended_by is None else None


def classify(
    suspect: Suspect,
    queue: str,
    lives: Mapping[int, WatchedLife],
    answers: Mapping[str, Collection[str]],
    settings: RescuerSettings,
    *,
    at_once: bool = False,
) -> Candidate | None:
    """The rule that may find a run lost; None while nothing speaks for that.

    ``answers`` are those of living workers that were asked which runs they have. ``at_once``: whatever time has passed.
    """
    if not suspect.executes:
        return Candidate(suspect, "3", queue) if at_once or suspect.seconds >= settings.waiting_seconds else None
    if suspect.worker is None:
        if _timed_out(suspect):
            return Candidate(suspect, "4", queue)
        if at_once or suspect.seconds >= settings.waiting_seconds:
            return Candidate(suspect, "1", queue, reason="the worker that began it is unknown")
        return None
    life = lives.get(suspect.worker)
    if life is None:  # its row was removed: it ended long ago
        return Candidate(suspect, "2", queue)
    if life.ended_by is not None:
        return Candidate(suspect, RULES_OF_ENDS.get(life.ended_by, "2"), queue, life) if is_over(life) else None
    if _timed_out(suspect):
        return Candidate(suspect, "4", queue, life)
    if life.hostname not in answers:
        if not at_once and life.silent_seconds is not None and life.silent_seconds < settings.away_seconds:
            return None
        return Candidate(suspect, "1", queue, life, f"{life.hostname} is not known to be over, and does not answer")
    return None if suspect.backend_id in answers[life.hostname] else Candidate(suspect, "5", queue, life)


def _timed_out(suspect: Suspect) -> bool:
    """Whether it has been executing for too long; the margin covers an event of its end that is on its way."""
    if suspect.max_run_seconds is None or suspect.running_seconds is None:
        return False
    return suspect.running_seconds > suspect.max_run_seconds + TIMED_OUT_MARGIN_SECONDS
