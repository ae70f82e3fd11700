"""Which open runs a round searches: those that may be lost, and are not to be left alone for now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import attrs

from swh_sched_runner.backend.tasks.lost import PAGE, Lost, Suspect
from swh_sched_runner.backend.workers.watched import WatchedLife
from swh_sched_runner.config import RescuerSettings, queue_name
from swh_sched_runner.services.rescuer.ask import AskWorkers, ask_in_parts
from swh_sched_runner.services.rescuer.evidence import Findings
from swh_sched_runner.services.rescuer.losses import Losses
from swh_sched_runner.services.rescuer.pauses import Pauses
from swh_sched_runner.services.rescuer.suspicion import Candidate, began_by_living, classify
from swh_sched_runner.services.service import Heartbeat

# Runs that are open though their task follows another one are searched so often, so many pages a round.
MOVED_ON_SECONDS = 3_600.0
MOVED_ON_PAGES = 50


@attrs.frozen
class Request:
    """What an operator asks for: one run, at once, nothing written, more verdicts than ``max_lost_fraction``."""

    run_id: int | None = None
    at_once: bool = False
    dry_run: bool = False
    force: bool = False


class Selection:
    """Selects the runs of each round, and keeps between rounds which of them are to wait."""

    def __init__(
        self,
        lost: Lost,
        ask: AskWorkers,
        settings: RescuerSettings,
        priority_queue: str,
        request: Request,
        clock: Callable[[], float],
    ) -> None:
        self._lost = lost
        self._ask = ask
        self._settings = settings
        self._priority_queue = priority_queue
        self._request = request
        self._clock = clock
        self._missing: dict[int, str] = {}  # runs that their living worker did not have, a round ago: their state
        self._losses = Losses(settings, clock)
        self._pauses = Pauses(settings, clock)
        self._moved_on_after: int | None = None
        self._next_moved_on = clock()

    def suspects(self, heartbeat: Heartbeat) -> list[Suspect]:
        """The runs in flight, some of all others, or the one that is asked for."""
        if self._request.run_id is not None:
            return self._lost.suspects([self._request.run_id])
        ids = sorted({*self._lost.runs_in_flight(), *self._moved_on()})
        found: list[Suspect] = []
        for at in range(0, len(ids), PAGE):
            found += self._lost.suspects(ids[at : at + PAGE])
            heartbeat.beat(f"looking at {len(ids)} runs")
        return found

    def _moved_on(self) -> list[int]:
        """Open runs among all there are, a few pages a round: their tasks may follow other runs."""
        found: list[int] = []
        if self._moved_on_after is None and self._clock() < self._next_moved_on:
            return found
        for _ in range(MOVED_ON_PAGES):
            self._moved_on_after, still_open = self._lost.open_runs_after(self._moved_on_after or 0, PAGE)
            found += still_open
            if self._moved_on_after is None:
                self._next_moved_on = self._clock() + MOVED_ON_SECONDS
                break
        return found

    def candidates(
        self, suspects: Sequence[Suspect], lives: Mapping[int, WatchedLife], heartbeat: Heartbeat
    ) -> list[Candidate]:
        """Of these runs those that are to be searched, by which rule. Asks the workers that execute runs."""
        answers = self._answers(suspects, lives, heartbeat)
        losing = self._losses.take(lives.values())
        missing: dict[int, str] = {}
        found: list[Candidate] = []
        for suspect in suspects:
            queue = queue_name(suspect.backend_name, self._priority_queue, priority=suspect.priority)
            candidate = classify(suspect, queue, lives, answers, self._settings, at_once=self._asked_at_once)
            if candidate is None:
                continue
            if candidate.rule == "5":
                # It may just have ended, and its event be on its way: only what is missing twice is searched, unless
                # its worker lost events.
                missing[suspect.id] = suspect.state
                is_missing_twice = self._missing.get(suspect.id) == suspect.state
                if not (is_missing_twice or suspect.worker in losing or self._request.at_once):
                    continue
            if self._request.at_once or not self._pauses.rests(candidate):
                found.append(candidate)
        self._missing = missing
        return found

    def is_urgent(self, lives: Iterable[WatchedLife]) -> bool:
        """Whether the next round should come at once: events of a worker were lost."""
        return bool(self._losses.found(lives))

    @property
    def _asked_at_once(self) -> bool:
        return self._request.run_id is not None

    def _answers(
        self, suspects: Iterable[Suspect], lives: Mapping[int, WatchedLife], heartbeat: Heartbeat
    ) -> dict[str, Collection[str]]:
        """Of each living worker that executes some of these runs and answers, which of them it has."""
        executing: list[tuple[str, str]] = []
        for suspect in suspects:
            if (life := began_by_living(suspect, lives)) is not None:
                executing.append((life.hostname, suspect.backend_id))
        executing.sort()  # the runs of a worker together: fewer questions to each
        answers: dict[str, set[str]] = {}
        silent: set[str] = set()
        for at in range(0, len(executing), PAGE):
            page = executing[at : at + PAGE]
            hostnames = sorted({hostname for hostname, _ in page})
            said = ask_in_parts(self._ask, hostnames, [run for _, run in page])
            heartbeat.beat()
            silent |= set(hostnames) - said.keys()
            for hostname, has in said.items():
                answers.setdefault(hostname, set()).update(has)
        return {hostname: has for hostname, has in answers.items() if hostname not in silent}

    def take_in(self, suspects: Sequence[Suspect], candidates: Sequence[Candidate], findings: Findings) -> None:
        """Let rest what was searched in vain; adds to the findings what rests."""
        self._pauses.take_in(suspects, candidates, findings)
