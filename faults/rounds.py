"""One round: a load, a fleet, what goes wrong, and what the judge says in the end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from urllib.parse import parse_qs, urlsplit

from faults import caller, drainer, drawn, kinds, listening, processes
from faults.agenda import Agenda
from faults.fleet import Fleet, Slot, died, end
from faults.judge import Verdict, judge, judge_depths, read_notes, read_tables
from faults.load import VISIT_TYPE, planned
from faults.points import Point
from faults.servers import Endpoints, Servers
from faults.window import Window
from tests.support.servers.proxy import Proxy

# A round whose load isn't through by then is stuck; the longest ones take 30 s on two busy cores.
PATIENCE_SECONDS = 90.0
# What a fault takes besides: an outage, or until silence is noticed.
FAULT_SECONDS = 60.0
# Nothing goes wrong before all are up, or have had so long for it.
START_SECONDS = 10.0
TICK_SECONDS = 0.002
LOOK_SECONDS = 0.03
CONFIRM_TIMEOUT_SECONDS = 3


@dataclass(frozen=True)
class Result:
    """What a round came to."""

    seed: int
    kind: str
    fault: str
    runners: int
    kills: int
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
        return f"make faults ROUNDS=1 SEED={self.seed} RUNNERS={self.runners} KIND={self.kind} FAULT={self.fault}"

    def __str__(self) -> str:
        verdict = self.verdict
        facts: dict[str, object] = {
            "seed": self.seed,
            "kind": self.kind,
            "fault": self.fault,
            "runners": self.runners,
            "kills": self.kills,
            "tasks": self.size,
            "messages": verdict.messages,
            "twice": verdict.sent_twice,
            "redelivered": verdict.redelivered,
            "worst": verdict.worst,
            "samples": verdict.samples,
            "longest": f"{verdict.longest_seconds:.1f}s",
            "took": f"{self.seconds:.1f}s",
        }
        line = " ".join(f"{name}={value}" for name, value in facts.items())
        return line + "".join(f"\n    VIOLATION {violation}" for violation in verdict.violations)


class Round:
    """One round, to be run once; a ``kinds.Scene`` and a ``drawn.Scene``. Files go to ``directory``."""

    def __init__(
        self,
        servers: Servers,
        directory: Path,
        seed: int,
        runners: int,
        kind: str,
        fault: str = drawn.NONE,
        points: Sequence[Point] = (),
    ) -> None:
        """With ``points`` the load is small, and the first runner alone dies at these points, one after the other.

        With a ``fault`` the drainer tells of each end as workers do, and a listener hears it.
        """
        self.servers = servers
        self.directory = directory
        self.kind = kind
        self.fault = fault
        self.dice = Random(seed)
        outages = kind in kinds.OUTAGES or fault == "mute"
        self.fleet, self.listening = Fleet([], outages=outages), Fleet([], outages=outages)
        self.broker_proxies: dict[int, Proxy] = {}
        self.database_proxies: dict[int, Proxy] = {}
        self._telling = fault != drawn.NONE
        self._seed = seed
        self._runners = runners
        self._points = list(points)
        self.load = planned(
            self.dice,
            visits=kind in kinds.VISITING,
            small=bool(points),
            crowded=kind == "crowded",
            slowness=4.0 if kind in kinds.LONG else 1.0,
        )
        self._agenda = Agenda()
        self._stack = ExitStack()

    def run(self) -> Result:
        """Play it to its end."""
        self.directory.mkdir(parents=True)
        started = time.monotonic()
        with self._stack:
            self.endpoints = self._stack.enter_context(self.servers.fresh())
            verdict = self._play(self.endpoints)
        seconds = time.monotonic() - started
        return Result(
            self._seed, self.kind, self.fault, self._runners, self.fleet.kills, self.load.size, seconds, verdict
        )

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done later."""
        self._agenda.later(seconds, action)

    def cleanup(self, action: Callable[[], object]) -> None:
        """Have something done at the end, however that comes."""
        self._stack.callback(action)

    def unconfirmed(self) -> Slot | None:
        """A runner that has an open batch now."""
        pid = self.window.unconfirmed()
        return None if pid is None else self.fleet.by_pid(pid)

    def _play(self, endpoints: Endpoints) -> Verdict:
        load = self.load
        caller.prepare(endpoints.database_url, load)
        self.window = Window(endpoints.database_url)
        self._stack.callback(self.window.close)
        notes, depths = self.directory / "notes.jsonl", self.directory / "depths.json"
        queues = list(load.limits())
        if self._telling:
            self._listen(endpoints)
        taking = self._process("drainer", drainer.drain, endpoints.broker_url, queues, notes, load.speed, self._telling)
        looking = None
        if self.kind not in kinds.WITHOUT_BOUND:
            looking = self._process("sampler", drainer.watch, endpoints.broker_url, queues, depths)
        calling = self._process("caller", caller.call, endpoints.database_url, load)
        self._start(endpoints)
        in_time = self._act(calling, taking)
        self.fleet.stop()
        objections = [*self._end(looking, "sampler"), *self._end(taking, "drainer")]
        if self._telling:
            objections += listening.end(self.listening, endpoints.broker_url)
            objections += died([*self.fleet.slots, *self.listening.slots])
        numbers = [task.number for wave in load.waves for task in wave.tasks]
        verdict = judge(read_tables(endpoints.database_url), read_notes(notes), numbers, reported=self._telling)
        if looking is not None and depths.exists():
            judge_depths(verdict, json.loads(depths.read_text()), load.limits())
        verdict.violations += [*self.fleet.objections, *self.listening.objections, *objections]
        if not in_time:
            verdict.violations.append(f"not through after {self._patience_seconds:g} s: see {self.directory}")
        return verdict

    @property
    def _patience_seconds(self) -> float:
        return PATIENCE_SECONDS + (FAULT_SECONDS if self._telling else 0)

    def _listen(self, endpoints: Endpoints) -> None:
        self._stack.callback(self.listening.abandon)
        environment = self._environment(endpoints, listening.SLOT, endpoints.broker_url)
        listening.start(self.listening, endpoints.broker_url, environment, self.directory / "listener.log")

    def _start(self, endpoints: Endpoints) -> None:
        self._stack.callback(self.fleet.abandon)
        self.fleet.slots = list(self._slots(endpoints))
        for slot in self.fleet.slots:
            if self._points:
                slot.coming = list(self._points) if slot is self.fleet.slots[0] else []
            else:
                slot.coming = kinds.points_of(self.kind, self.dice)
            self.fleet.start(slot)

    def _act(self, calling: ForkServerProcess, taking: ForkServerProcess) -> bool:
        """Play the script, then wait until everything is dispatched; whether that came in time."""
        self._agenda.follow(self._script(taking))
        deadline, look_at = time.monotonic() + self._patience_seconds, 0.0
        while (now := time.monotonic()) < deadline:
            for fleet in (self.fleet, self.listening):
                for slot in fleet.look():
                    self.later(self.dice.choice([0.0, self.dice.uniform(0, 0.8)]), partial(fleet.start, slot))
            self._agenda.catch_up()
            if not self._agenda and not calling.is_alive() and now >= look_at:
                if self.window.left() == 0 and (not self._telling or self.window.open_runs() == 0):
                    return True
                look_at = time.monotonic() + LOOK_SECONDS
            else:
                time.sleep(TICK_SECONDS)
        return False

    def _script(self, taking: ForkServerProcess) -> Iterator[float]:
        """What goes wrong once all are up; then the drainer may be fast."""
        started = time.monotonic()
        while (self.window.sessions() or 0) < len(self.fleet.slots) and time.monotonic() < started + START_SECONDS:
            yield LOOK_SECONDS
        if self._telling:
            self._agenda.follow(drawn.SCRIPTS[self.fault](self))
        yield from kinds.SCRIPTS[self.kind](self)
        assert taking.pid is not None
        os.kill(taking.pid, signal.SIGUSR1)

    def _slots(self, endpoints: Endpoints) -> Iterator[Slot]:
        visiting = self.kind in kinds.VISITING
        for number in range(self._runners + visiting):
            environment = self._environment(endpoints, number, self._broker_url(endpoints, number))
            # One runner beside the visit schedulers: they fill the same queue.
            command = "visits" if visiting and number < self._runners else "run"
            yield Slot(number, [command], environment, self.directory / f"runner-{number}.log")

    def _environment(self, endpoints: Endpoints, number: int, broker_url: str) -> dict[str, str]:
        visits = f"SWH_SCHED_RUNNER_VISITS__{VISIT_TYPE.upper()}"
        muted = {"SWH_SCHED_RUNNER_DATABASE__STATEMENT_TIMEOUT_SECONDS": str(drawn.STATEMENT_SECONDS)}
        return (muted if self.fault == "mute" else {}) | {
            "SWH_SCHED_RUNNER_DATABASE__URL": self._database_url(endpoints, number),
            "SWH_SCHED_RUNNER_BROKER__URL": broker_url,
            "SWH_SCHED_RUNNER_BROKER__CONFIRM_TIMEOUT_SECONDS": str(CONFIRM_TIMEOUT_SECONDS),
            "SWH_SCHED_RUNNER_RUNNER__BATCH_SIZE": str(self.load.batch_size),
            "SWH_SCHED_RUNNER_WEB__PORT": "0",
            f"{visits}__PERIOD_SECONDS": str(0.1 * self._runners),  # they hold the lock of the queue meanwhile
            f"{visits}__BATCH_SIZE": str(self.load.batch_size),
            "HOME": str(self.directory),
        }

    def _broker_url(self, endpoints: Endpoints, number: int) -> str:
        if self.kind != "broker-silent" and self.fault != "cut-in-grab":
            return endpoints.broker_url
        proxy = self.broker_proxies[number] = Proxy(endpoints.broker_url)
        self._stack.callback(proxy.stop)
        return proxy.url

    def _database_url(self, endpoints: Endpoints, number: int) -> str:
        if self.kind != "database-silent" and self.fault != "mute":
            return endpoints.service_url
        given = {key: values[0] for key, values in parse_qs(urlsplit(endpoints.service_url).query).items()}
        proxy = self.database_proxies[number] = Proxy(f"x+socket://{given['host']}/.s.PGSQL.{given['port']}")
        self._stack.callback(proxy.stop)
        return f"postgresql://{given['user']}@127.0.0.1:{proxy.port}/{endpoints.database}"

    def _process(self, name: str, work: Callable[..., object], *arguments: object) -> ForkServerProcess:
        process = processes.start(self.directory / f"{name}.log", work, *arguments)
        self._stack.callback(processes.make_sure_of_the_end, process)
        return process

    def _end(self, process: ForkServerProcess | None, name: str) -> list[str]:
        if process is None or end(process, 20):
            return []
        return [f"the {name} failed: see {self.directory / name}.log"]
