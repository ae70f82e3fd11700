"""The rescuer: ends the runs whose end nobody will report, by evidence."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import attrs
import structlog

from swh_sched_runner.backend.tasks.lost import Lost, Suspect
from swh_sched_runner.backend.workers.watched import WatchedLife, WatchedLives
from swh_sched_runner.broker.interface import EventMarker, QueueInspector
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.services.answers import Inspect
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.rescuer.ask import AskWorkers
from swh_sched_runner.services.rescuer.consumers import Consumers
from swh_sched_runner.services.rescuer.evidence import Collector, Findings, StoredResults
from swh_sched_runner.services.rescuer.look import HeldQueue, Look
from swh_sched_runner.services.rescuer.marks import MARK_SECONDS, MarkSender
from swh_sched_runner.services.rescuer.selection import Request, Selection
from swh_sched_runner.services.rescuer.suspicion import Candidate
from swh_sched_runner.services.rescuer.watch import LifeWatch
from swh_sched_runner.services.service import Heartbeat, MaintainingHeartbeat

log = structlog.get_logger(__name__)

# How often to look which workers are connected.
LOOK_SECONDS = 5.0
# How often to keep our own connections alive.
MAINTAIN_SECONDS = 1.0
# Fewer verdicts at once are never too many.
FEW_VERDICTS = 20


class Leases(Protocol):
    """Takes leases of queues under an identity of its own."""

    def hold(self, queue: str, heartbeat: Heartbeat) -> HeldQueue | str:
        """The lease of a queue, or why it is not to be had. Raises ``BrokerUnavailable``, ``SessionLost``."""

    def keep_alive(self) -> None:
        """Keep the connections; every second or so. Raises ``BrokerUnavailable``, ``SessionLost``."""

    def close(self) -> None:
        """End the connections. Never raises."""


@attrs.frozen
class BrokerAccess:
    """What the rescuer uses of the broker. ``stored`` is None without a result backend."""

    open_inspector: Callable[[], QueueInspector]
    open_leases: Callable[[], Leases]
    open_marker: Callable[[], EventMarker]
    ask: AskWorkers
    inspect: Inspect
    stored: StoredResults | None = None


class Rescuer:
    """A round looks at all runs in flight, collects evidence on those that may be lost, and ends those that are.

    Between rounds it looks which workers are connected. When a connection of its own breaks it raises, and what it saw
    is forgotten with it.
    """

    name = "rescuer"

    def __init__(
        self,
        lost: Lost,
        lives: WatchedLives,
        broker: BrokerAccess,
        settings: RescuerSettings,
        priority_queue: str,
        instruments: Instruments | None = None,
        request: Request | None = None,
        clock: Callable[[], float] = time.monotonic,
        mark_seconds: float | None = None,
    ) -> None:
        self._lost = lost
        self._broker = broker
        self._settings = settings
        self._instruments = instruments or Instruments()
        self._request = request or Request()
        self._clock = clock
        self._leases: Leases | None = None
        self._inspector = broker.open_inspector()
        self._watch = LifeWatch(lives, self._inspector.worker_is_connected, settings, clock)
        look = Look(self._inspector.info, self._ask, self._hold, settings)
        marks = MarkSender(lost, broker.open_marker, MARK_SECONDS if mark_seconds is None else mark_seconds)
        self._collector = Collector(look, self._ask, marks, broker.stored, lives.ended_without_events, settings)
        self._consumers = Consumers(lives, broker.inspect, settings, clock)
        self._selection = Selection(lost, self._ask, settings, priority_queue, self._request, clock)
        self._lives: Mapping[int, WatchedLife] = {}  # as the last look showed them
        self._next_look = self._next_maintenance = clock()
        self._heartbeat = Heartbeat()

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """One round; raises what breaks its connections."""
        findings = self.find(heartbeat)
        heartbeat.trouble = findings.withheld
        ended = 0 if findings.withheld else len(findings.verdicts) - len(findings.void)
        heartbeat.beat(f"{ended} runs ended, {len(findings.undecided)} undecided")
        return False

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Wait for the next round, and watch the workers meanwhile: if events of one were lost, it comes at once."""
        maintaining, left = MaintainingHeartbeat(heartbeat, self._maintain), self._settings.period_seconds
        while left > 0 and not self._selection.is_urgent(self._lives.values()):
            if maintaining.wait(min(left, MAINTAIN_SECONDS)):
                break
            left -= MAINTAIN_SECONDS

    def _maintain(self) -> None:
        """At each beat: watch the workers' connections, which keeps ours alive as well."""
        if self._clock() < self._next_maintenance:
            return
        self._next_maintenance = self._clock() + MAINTAIN_SECONDS
        if self._leases is not None:
            self._leases.keep_alive()
        if self._clock() >= self._next_look:
            self._look(Heartbeat())

    def _look(self, heartbeat: Heartbeat, workers: Collection[int] = ()) -> Mapping[int, WatchedLife]:
        self._next_look = self._clock() + LOOK_SECONDS
        self._lives = self._watch.look(heartbeat, workers, dry_run=self._request.dry_run)
        return self._lives

    def observe(self, heartbeat: Heartbeat) -> None:
        """Watch the workers' connections for long enough to judge those that are not connected, if there are any."""
        until = self._clock() + self._settings.away_seconds + 1.0
        self._look(heartbeat)
        while self._watch.anybody_absent and self._clock() < until and not heartbeat.wait(LOOK_SECONDS):
            self._look(heartbeat)

    def close(self) -> None:
        """End the connections."""
        if self._leases is not None:
            self._leases.close()
        self._inspector.close()

    def find(self, heartbeat: Heartbeat) -> Findings:
        """Look at all runs in flight, or the one that is asked for, and judge."""
        self._heartbeat = heartbeat = MaintainingHeartbeat(heartbeat, self._maintain)
        suspects = self._selection.suspects(heartbeat)
        workers = {s.worker for s in suspects if s.executes and s.worker is not None}
        lives = self._look(heartbeat, workers)
        candidates = self._selection.candidates(suspects, lives, heartbeat)
        findings = self._collector.collect(candidates, lives, heartbeat)
        self._ask_for_queues(findings, lives, heartbeat)
        if heartbeat.stopping:  # waits were cut short, and prove nothing
            return Findings()
        self._explain_asked(suspects, candidates, findings)
        self._selection.take_in(suspects, candidates, findings)
        self._judge(findings, len(suspects))
        self._tell(findings)
        return findings

    def _explain_asked(
        self, suspects: Collection[Suspect], candidates: Collection[Candidate], findings: Findings
    ) -> None:
        """Of the run that an operator asks for something is said in any case."""
        if (run := self._request.run_id) is None or candidates:
            return
        if suspects:
            findings.held[run] = "the worker that began it has it, or is not known to be over for long enough"
        else:
            findings.undecided[run] = ("0", "its message is in the outbox, or it ended meanwhile")

    def _ask_for_queues(self, findings: Findings, lives: Mapping[int, WatchedLife], heartbeat: Heartbeat) -> None:
        """For the next round: workers may have begun or ceased to consume a queue."""
        if findings.looked.miscounted and not self._request.dry_run:
            heartbeat.beat()
            living = [life for life in lives.values() if life.ended_by is None]
            findings.reconsidered = self._consumers.ask_again(findings.looked.miscounted, living)
            heartbeat.beat()

    # Verdicts.

    def _judge(self, findings: Findings, open_runs: int) -> None:
        lost = sum(verdict.recovered is None for verdict in findings.verdicts)
        limit = self._settings.max_lost_fraction * open_runs
        if lost >= FEW_VERDICTS and lost > limit and not self._request.force and self._request.run_id is None:
            findings.withheld = (
                f"{lost} of {open_runs} open runs would be ended as lost, more than rescuer.max_lost_fraction allows: "
                "if that is right, `swh-sched-runner rescue --once --force`"
            )
        if findings.withheld is not None:
            return
        if self._request.dry_run:
            unmoved = self._lost.unmoved([verdict.suspect for verdict in findings.verdicts])
            findings.verdicts = [v for v in findings.verdicts if v.suspect.backend_id in unmoved]
            return
        size = self._settings.batch_size
        for at in range(0, len(findings.verdicts), size):
            findings.void += self._lost.judge(findings.verdicts[at : at + size])
        if self._request.run_id is None:
            self._lost.write_undecided(findings.undecided)

    def _tell(self, findings: Findings) -> None:
        self._instruments.undecided(Counter(rule for rule, _ in findings.undecided.values()))
        self._instruments.verdicts_withheld(len(findings.verdicts) if findings.withheld else 0)
        if findings.withheld is not None:
            log.error("runs not ended", reason=findings.withheld)
            return
        if self._request.dry_run:
            return
        void = {verdict.suspect.id for verdict in findings.void}
        for verdict in findings.verdicts:
            run = verdict.suspect
            if run.id in void:
                log.info("verdict void", run=run.id, backend_id=run.backend_id, rule=verdict.rule)
                continue
            self._instruments.verdict(verdict.verdict)
            status = "lost" if verdict.recovered is None else str(verdict.recovered.status)
            self._instruments.runs_ended(status, 1)
            log.warning("run ended", run=run.id, backend_id=run.backend_id, verdict=verdict.verdict, rule=verdict.rule)
        for run_id, (rule, reason) in findings.undecided.items():
            log.debug("run undecided", run=run_id, rule=rule, reason=reason)

    def _ask(self, hostnames: Sequence[str], backend_ids: Sequence[str]) -> Mapping[str, Collection[str]]:
        self._heartbeat.beat()
        return self._broker.ask(hostnames, backend_ids)

    def _hold(self, queue: str, heartbeat: Heartbeat) -> HeldQueue | str:
        if self._leases is None:
            self._leases = self._broker.open_leases()
        return self._leases.hold(queue, heartbeat)
