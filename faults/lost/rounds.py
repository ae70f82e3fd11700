"""One round of lost runs: a load, services and workers, who is killed, and what the judge says in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random

from faults import caller, listening, processes
from faults.agenda import Agenda
from faults.fleet import Slot, died
from faults.lost import disruptions, workers
from faults.lost.judge import Verdict, judge, read_tables
from faults.lost.load import planned
from faults.lost.record import Record, Span, copy_events, long_executions, read_events, read_executions
from faults.lost.services import Services
from faults.lost.window import LostWindow
from faults.lost.workers import Workers
from faults.servers import Endpoints, Servers
from tests.support.servers.proxy import Proxy

# A round that isn't through so long after the last disruption is stuck.
PATIENCE_SECONDS = 90.0
START_SECONDS = 30.0
TICK_SECONDS = 0.01
LOOK_SECONDS = 0.1
SETTLE_SECONDS = 10.0
SERVICES = (disruptions.RUNNER, *(disruptions.LISTENER,) * 2, *(disruptions.RESCUER,) * 2)
WORKERS = 2
# What the rescuer waits for, as short as it goes; the kind says how long workers are away, and runs wait.
LIMITS = {
    "flush_seconds": 0.5,
    "silent_seconds": 20,
    "between_looks_seconds": 0.3,
    "drain_seconds": 1,
    "period_seconds": 0.3,
}


@dataclass(frozen=True)
class Result:
    """What a round came to."""

    seed: int
    kind: str
    workers: str
    kills: int
    cuts: int
    size: int
    seconds: float
    verdict: Verdict

    @property
    def violations(self) -> list[str]:
        """What did not hold."""
        return self.verdict.violations

    @property
    def again(self) -> str:
        """What plays it again."""
        return f"make faults ROUNDS=1 SEED={self.seed} KIND={self.kind}"

    def __str__(self) -> str:
        verdict = self.verdict
        facts: dict[str, object] = {
            "seed": self.seed,
            "kind": self.kind,
            "workers": self.workers,
            "kills": self.kills,
            "cuts": self.cuts,
            "tasks": self.size,
            "executions": verdict.executions,
            "failures": verdict.failures,
            "lost": verdict.lost,
            "false": verdict.false,
            "corrected": verdict.corrected,
            "verdicts": ",".join(f"{name}:{count}" for name, count in sorted(verdict.verdicts.items())) or "-",
            "took": f"{self.seconds:.1f}s",
        }
        line = " ".join(f"{name}={value}" for name, value in facts.items())
        return line + "".join(f"\n    VIOLATION {violation}" for violation in verdict.violations)


class Round:
    """One round, to be run once; a ``disruptions.Scene``. Files go to ``directory``."""

    def __init__(self, servers: Servers, directory: Path, seed: int, kind: str) -> None:
        self.servers = servers
        self.directory = directory
        self.dice = Random(seed)
        self._kind = disruptions.KINDS[kind]
        self.load = planned(self.dice, self._kind.size, self._kind.seconds, slow=self._kind.slow)
        self.stock = self.dice.random() < 0.5
        self.late_acks = self._kind.slow and self.dice.random() < 0.25
        self.proxies: dict[int, Proxy] = {}
        self.outages: list[Span] = []
        self.cuts: list[Span] = []
        self._seed = seed
        self._name = kind
        outages = bool(self._kind.disruptions.keys() & disruptions.OUTAGES)
        self.services, self.workers = Services([], outages=outages), Workers([])
        self._record = directory / "executions.jsonl"
        self._agenda = Agenda()
        self._is_over = False  # nothing goes wrong any more
        self._stack = ExitStack()

    def run(self) -> Result:
        """Play it to its end."""
        self.directory.mkdir(parents=True)
        started = time.monotonic()
        with self._stack:
            verdict = self._play(self._stack.enter_context(self.servers.fresh()))
        return Result(
            self._seed,
            self._name,
            ("stock" if self.stock else "ours") + (",late-acks" if self.late_acks else ""),
            self._kills,
            len(self.cuts),
            self.load.size,
            time.monotonic() - started,
            verdict,
        )

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done later."""
        self._agenda.later(seconds, action)

    def known(self) -> list[Slot]:
        """Workers of which the services know what they consume from."""
        known = self._window.known_workers()
        return [slot for slot in self.workers.alive() if slot.pid in known]

    def executing(self) -> list[Slot]:
        """Those of them that execute something long now."""
        lives = long_executions(self._record)
        return [slot for slot in self.known() if slot.pid in lives]

    def _play(self, endpoints: Endpoints) -> Verdict:
        caller.prepare(endpoints.database_url, self.load)
        self._window = LostWindow(endpoints.database_url)
        self._stack.callback(self._window.close)
        self._start(endpoints)
        calling = processes.start(self.directory / "caller.log", caller.call, endpoints.database_url, self.load)
        self._stack.callback(processes.make_sure_of_the_end, calling)
        in_time = self._act(calling)
        self._kills = self.services.kills + self.workers.kills
        undecided = self._window.undecided()
        self.workers.stop()
        left = self._settle(endpoints.broker_url)
        self.services.abandon()
        record = Record(
            read_executions(self._record),
            read_events(endpoints.broker_url),
            {death.life: death.at for death in self.workers.deaths},
            self.outages,
            self.cuts,
        )
        numbers = [task.number for wave in self.load.waves for task in wave.tasks]
        verdict = judge(read_tables(endpoints.database_url), record, numbers)
        verdict.violations += [*self.services.objections, *self.workers.objections, *died(self.services.slots)]
        if left:
            verdict.violations.append(f"events left in their queue: {left}")
        if not in_time:
            verdict.violations.append(
                f"not through {PATIENCE_SECONDS:g} s after the last disruption: see {self.directory}; "
                f"undecided: {undecided}"
            )
        return verdict

    def _start(self, endpoints: Endpoints) -> None:
        """Start all, and wait until the workers are known with their queues."""
        self._stack.callback(self.services.abandon)
        self._stack.callback(self.workers.abandon)
        self.services.slots = [
            Slot(number, [name], self._environment(endpoints), self.directory / f"{name}-{number}.log")
            for number, name in enumerate(SERVICES)
        ]
        for slot in self.services.slots:
            self.services.start(slot)
        deadline = time.monotonic() + START_SECONDS
        while listening.waiting(endpoints.broker_url) is None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        copy_events(endpoints.broker_url)
        self.workers.kind = workers.Kind(
            sorted({each.queue for each in self.load.types}),
            list(self.load.limits()),
            self._record,
            self.stock,
            # Heartbeats of the rounds' broker are too fast for a busy machine.
            {"broker_heartbeat": 0, "task_acks_late": self.late_acks},
            self._kind.same_name,
        )
        self.workers.urls = {number: self._broker_url(endpoints, number) for number in range(WORKERS)}
        self.workers.slots = [Slot(n, ["worker"], {}, self.directory / f"worker-{n}.log") for n in range(WORKERS)]
        for slot in self.workers.slots:
            self.workers.start(slot)
        while len(self.known()) < WORKERS and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)

    def _act(self, calling: ForkServerProcess) -> bool:
        """Play the script, then wait until every run has ended; whether that came in time."""
        self._agenda.follow(self._script())
        deadline, look_at = time.monotonic() + PATIENCE_SECONDS, 0.0
        while (now := time.monotonic()) < deadline:
            for fleet in (self.services, self.workers):
                for slot in fleet.look():
                    self.later(self.dice.uniform(0, 0.8), partial(fleet.start, slot))
            self._agenda.catch_up()
            if not self._is_over or calling.is_alive():
                deadline = now + PATIENCE_SECONDS
            elif not self._agenda and now >= look_at:
                if self._window.left() == 0:
                    return True
                look_at = time.monotonic() + LOOK_SECONDS
            time.sleep(TICK_SECONDS)
        return False

    def _script(self) -> Iterator[float]:
        yield from disruptions.script(self, self._kind)
        self._is_over = True

    def _settle(self, broker_url: str) -> int | None:
        """Wait until what workers said last is recorded; how much of it is left."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (left := listening.waiting(broker_url)) != 0 and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        return left

    def _environment(self, endpoints: Endpoints) -> dict[str, str]:
        limits = LIMITS | {
            "away_seconds": self._kind.away_seconds,
            "waiting_seconds": self._kind.waiting_seconds,
        }
        return {
            "SWH_SCHED_RUNNER_DATABASE__URL": endpoints.service_url,
            "SWH_SCHED_RUNNER_BROKER__URL": endpoints.broker_url,
            "SWH_SCHED_RUNNER_BROKER__CONFIRM_TIMEOUT_SECONDS": "3",
            "SWH_SCHED_RUNNER_RUNNER__BATCH_SIZE": str(self.load.batch_size),
            "SWH_SCHED_RUNNER_RUNNER__PERIOD_SECONDS": "0.2",
            "SWH_SCHED_RUNNER_WEB__PORT": "0",
            "SWH_SCHED_RUNNER_LOG__LEVEL": "debug",  # why a run can't be judged
            **{f"SWH_SCHED_RUNNER_RESCUER__{name.upper()}": str(value) for name, value in limits.items()},
            "HOME": str(self.directory),
        }

    def _broker_url(self, endpoints: Endpoints, number: int) -> str:
        if "network" not in self._kind.disruptions:
            return endpoints.broker_url
        proxy = self.proxies[number] = Proxy(endpoints.broker_url)
        self._stack.callback(proxy.stop)
        return proxy.url
