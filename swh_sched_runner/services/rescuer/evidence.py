"""Collects the evidence of a round, in the order that rule 0 of docs/explanation/lost-runs.md demands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import attrs
import structlog

from swh_sched_runner.backend.tasks.lost import Verdict
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.backend.workers.watched import WatchedLife, WithoutEvents
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.model import Evidence
from swh_sched_runner.services.rescuer.ask import AskWorkers, ask_in_parts, parts
from swh_sched_runner.services.rescuer.look import Look, Looked, Target
from swh_sched_runner.services.rescuer.marks import MarkSender
from swh_sched_runner.services.rescuer.suspicion import Candidate
from swh_sched_runner.services.service import Heartbeat

log = structlog.get_logger(__name__)

RECOVERED = "event lost, outcome recovered"


class StoredResults(Protocol):
    """What the result backend holds of runs that have ended, by id: status, what is to be noted, and when it ended."""

    def __call__(self, backend_ids: Sequence[str]) -> Mapping[str, tuple[str, Mapping[str, Any], datetime | None]]:
        """Raises ``BrokerUnavailable``."""


@attrs.define(slots=True)
class Findings:
    """What a round found: verdicts; runs that can't be judged, with rule and reason; runs that somebody has.

    ``withheld`` says why none of the verdicts counts, ``void`` are those that no longer held when they were written. Of
    ``reconsidered`` queues other consumers are known since.
    """

    verdicts: list[Verdict] = attrs.field(factory=list)
    void: list[Verdict] = attrs.field(factory=list)
    undecided: dict[int, tuple[str, str]] = attrs.field(factory=dict)
    held: dict[int, str] = attrs.field(factory=dict)
    withheld: str | None = None
    reconsidered: frozenset[str] = frozenset()
    looked: Looked = attrs.field(factory=Looked)


class Collector:
    """Collects the evidence on candidates."""

    def __init__(
        self,
        look: Look,
        ask: AskWorkers,
        marks: MarkSender,
        stored: StoredResults | None,
        ended_without_events: Callable[[], Sequence[WithoutEvents]],
        settings: RescuerSettings,
    ) -> None:
        self._look = look
        self._ask = ask
        self._marks = marks
        self._stored = stored
        self._ended_without_events = ended_without_events
        self._settings = settings

    def collect(
        self, candidates: Sequence[Candidate], lives: Mapping[int, WatchedLife], heartbeat: Heartbeat
    ) -> Findings:
        """The verdicts on these candidates. Raises ``BrokerUnavailable``: nothing is known then."""
        findings = Findings()
        has_outcome = self._outcomes(candidates)
        searched = [c for c in candidates if c.rule != "1" and c.suspect.backend_id not in has_outcome]
        living = [life for life in lives.values() if life.ended_by is None]
        looked = findings.looked = self._look.run([_target(c) for c in searched], living, heartbeat)
        self._leave_without_events(looked, searched, living)
        if looked.gone:
            heartbeat.wait(self._settings.flush_seconds)
            self._ask_again(looked, searched)
        if looked.gone or has_outcome:
            why_not = self._marks.pass_through(self._settings.flush_seconds, heartbeat)
            if why_not is not None:
                log.warning("nothing judged", reason=why_not, runs=len(looked.gone) + len(has_outcome))
                _leave_undecided(looked, has_outcome, why_not)
            else:
                # A worker may have stored its result, and died, after the first question.
                has_outcome = self._outcomes(candidates)
                self._conclude(candidates, has_outcome, looked, findings)
        self._note(candidates, looked, findings)
        return findings

    def _leave_without_events(
        self, looked: Looked, searched: Sequence[Candidate], living: Iterable[WatchedLife]
    ) -> None:
        """A worker that sends no task events may have executed a run, and nobody told of it: its message is gone."""
        waiting = [one for one in searched if one.rule == "3" and one.suspect.backend_id in looked.gone]
        if not waiting:
            return
        over = self._ended_without_events()
        silent = [life for life in living if life.sends_no_events]
        for candidate in waiting:
            run, queue, seconds = candidate.suspect.backend_id, candidate.queue, candidate.suspect.seconds
            # It did not execute what came after its end.
            had: tuple[WatchedLife | WithoutEvents, ...] = (
                *silent,
                *(life for life in over if life.ended_seconds <= seconds),
            )
            if (life := next((life for life in had if life.queues is None or queue in life.queues), None)) is not None:
                del looked.gone[run]
                looked.undecided[run] = f"{life.hostname}, which consumes {queue}, sends no task events"

    def _outcomes(self, candidates: Iterable[Candidate]) -> dict[str, RunChange]:
        if self._stored is None:
            return {}
        runs = [candidate.suspect.backend_id for candidate in candidates]
        found = {}
        for part in parts(runs):
            for run, (status, note, ended) in self._stored(part).items():
                evidence = Evidence.RESULT if note.keys() & {"result", "result_omitted"} else Evidence.FAILED
                found[run] = RunChange(run, status=status, ended=ended, evidence=evidence, end_noted=note)
        return found

    def _ask_again(self, looked: Looked, searched: Sequence[Candidate]) -> None:
        """After what a worker kept back was sent, each that was asked says once more that it has nothing."""
        left = [_target(candidate) for candidate in searched if candidate.suspect.backend_id in looked.gone]
        hostnames = {life.hostname for one in left for life in (*looked.consumers[one.queue], one.own) if life}
        answers = ask_in_parts(self._ask, sorted(hostnames), [one.backend_id for one in left])
        for one in left:
            ignored = one.own.hostname if one.own is not None and one.own_counts_not else None
            asked = {life.hostname for life in (*looked.consumers[one.queue], one.own) if life} - {ignored}
            run = one.backend_id
            if (holder := next((name for name in sorted(asked) if run in answers.get(name, ())), None)) is not None:
                del looked.gone[run]
                looked.held[run] = f"{holder} has it"
            elif (silent := next((name for name in sorted(asked) if name not in answers), None)) is not None:
                del looked.gone[run]
                looked.undecided[run] = f"{silent} may have the message and did not answer again"

    def _conclude(
        self,
        candidates: Iterable[Candidate],
        outcomes: Mapping[str, RunChange],
        looked: Looked,
        findings: Findings,
    ) -> None:
        for candidate in candidates:
            suspect = candidate.suspect
            if (outcome := outcomes.get(suspect.backend_id)) is not None:
                findings.verdicts.append(Verdict(suspect, "1", RECOVERED, {}, recovered=outcome))
            elif (evidence := looked.gone.get(suspect.backend_id)) is not None:
                findings.verdicts.append(_lost(candidate, evidence, looked.consumers[candidate.queue]))

    def _note(self, candidates: Iterable[Candidate], looked: Looked, findings: Findings) -> None:
        judged = {verdict.suspect.id for verdict in findings.verdicts}
        for candidate in candidates:
            run, backend_id = candidate.suspect.id, candidate.suspect.backend_id
            if run in judged:
                continue
            if backend_id in looked.held:
                findings.held[run] = looked.held[backend_id]
            elif (reason := looked.undecided.get(backend_id) or candidate.reason) is not None:
                findings.undecided[run] = (candidate.rule, reason)


def _target(candidate: Candidate) -> Target:
    own = None if candidate.life_is_over else candidate.life
    return Target(candidate.suspect.backend_id, candidate.queue, own, own_counts_not=candidate.rule == "4")


def _leave_undecided(looked: Looked, outcomes: Iterable[str], reason: str) -> None:
    looked.undecided |= dict.fromkeys([*looked.gone, *outcomes], reason)
    looked.gone.clear()


def _lost(candidate: Candidate, evidence: Mapping[str, object], consumers: Iterable[WatchedLife]) -> Verdict:
    life = candidate.life
    told: dict[str, object] = dict(evidence)
    if life is not None:
        told |= {"worker": life.hostname, "worker_pid": life.pid}
    if candidate.life_is_over:
        told["ended_by"] = "unknown" if life is None else life.ended_by
    return Verdict(
        candidate.suspect,
        candidate.rule,
        candidate.verdict,
        told,
        lives={life.id: life.state} if life is not None and candidate.life_is_over else {},
        queue=candidate.queue,
        consumers={consumer.id: consumer.came for consumer in consumers},
    )
