"""One round: a load, a fleet, what goes wrong, and what the judge says in the end."""

from __future__ import annotations

import heapq
import itertools
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

from tests.broker.proxy import Proxy
from tests.support.faults import caller, drainer, kinds, processes
from tests.support.faults.fleet import Fleet, Slot, end
from tests.support.faults.judge import Verdict, judge, judge_depths, read_notes, read_tables
from tests.support.faults.load import VISIT_TYPE, planned
from tests.support.faults.points import Point
from tests.support.faults.servers import Room, Servers
from tests.support.faults.window import Window

# A round whose load isn't through by then is stuck; the longest ones take 30 s on two busy cores.
PATIENCE_SECONDS = 90.0
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
    runners: int
    kills: int
    size: int
    seconds: float
    verdict: Verdict

    def __str__(self) -> str:
        verdict = self.verdict
        facts: dict[str, object] = {
            "seed": self.seed,
            "kind": self.kind,
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
        told = " ".join(f"{name}={value}" for name, value in facts.items())
        return told + "".join(f"\n    VIOLATION {violation}" for violation in verdict.violations)


class Round:
    """One round, to be run once; a ``kinds.Scene``. Files go to ``directory``."""

    def __init__(
        self, servers: Servers, directory: Path, seed: int, runners: int, kind: str, points: Sequence[Point] = ()
    ) -> None:
        """With ``points`` the load is small, and the first runner alone dies at these points, one after the other."""
        self.servers = servers
        self.kind = kind
        self.dice = Random(seed)
        self.fleet = Fleet([], outages=kind in kinds.OUTAGES)
        self.broker_proxies: dict[int, Proxy] = {}
        self.database_proxies: dict[int, Proxy] = {}
        self._seed = seed
        self._runners = runners
        self._directory = directory
        self._points = list(points)
        self._load = planned(
            self.dice,
            visits=kind in kinds.VISITING,
            small=bool(points),
            crowded=kind == "crowded",
            slowness=4.0 if kind in kinds.LONG else 1.0,
        )
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._stack = ExitStack()

    def run(self) -> Result:
        """Play it to its end."""
        self._directory.mkdir(parents=True)
        started = time.monotonic()
        with self._stack:
            verdict = self._play(self._stack.enter_context(self.servers.room()))
        seconds = time.monotonic() - started
        return Result(self._seed, self.kind, self._runners, self.fleet.kills, self._load.size, seconds, verdict)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done later."""
        heapq.heappush(self._agenda, (time.monotonic() + seconds, next(self._order), action))

    def promising(self) -> Slot | None:
        """A runner that has an open batch at this moment."""
        pid = self.window.promising()
        return None if pid is None else self.fleet.by_pid(pid)

    def _play(self, room: Room) -> Verdict:
        load = self._load
        caller.prepare(room.database_url, load)
        self.window = Window(room.database_url)
        self._stack.callback(self.window.close)
        notes, depths = self._directory / "notes.jsonl", self._directory / "depths.json"
        queues = list(load.bounds())
        taking = self._process("drainer", drainer.drain, room.broker_url, queues, notes, load.pace)
        looking = None
        if self.kind not in kinds.WITHOUT_BOUND:
            looking = self._process("sampler", drainer.watch, room.broker_url, queues, depths)
        calling = self._process("caller", caller.call, room.database_url, load)
        self._start(room)
        in_time = self._act(calling, taking)
        self.fleet.stop()
        objections = [*self.fleet.objections, *self._end(looking, "sampler"), *self._end(taking, "drainer")]
        numbers = [task.number for wave in load.waves for task in wave.tasks]
        verdict = judge(read_tables(room.database_url), read_notes(notes), numbers)
        if looking is not None and depths.exists():
            judge_depths(verdict, json.loads(depths.read_text()), load.bounds())
        verdict.violations += objections
        if not in_time:
            verdict.violations.append(f"not through after {PATIENCE_SECONDS:g} s: see {self._directory}")
        return verdict

    def _start(self, room: Room) -> None:
        self._stack.callback(self.fleet.abandon)
        self.fleet.slots = list(self._slots(room))
        for slot in self.fleet.slots:
            if self._points:
                slot.coming = list(self._points) if slot is self.fleet.slots[0] else []
            else:
                slot.coming = kinds.points_of(self.kind, self.dice)
            self.fleet.start(slot)

    def _act(self, calling: ForkServerProcess, taking: ForkServerProcess) -> bool:
        """Play the script, then wait until everything is dispatched; whether that came in time."""
        script = self._script(taking)
        script_at: float | None = time.monotonic()
        deadline, look_at = time.monotonic() + PATIENCE_SECONDS, 0.0
        while (now := time.monotonic()) < deadline:
            for slot in self.fleet.look():
                self.later(self.dice.choice([0.0, self.dice.uniform(0, 0.8)]), partial(self.fleet.start, slot))
            while self._agenda and self._agenda[0][0] <= now:
                heapq.heappop(self._agenda)[2]()
            if script_at is not None and now >= script_at:
                wait_seconds = next(script, None)
                script_at = None if wait_seconds is None else time.monotonic() + wait_seconds
            elif script_at is None and not self._agenda and not calling.is_alive() and now >= look_at:
                if self.window.left() == 0:
                    return True
                look_at = time.monotonic() + LOOK_SECONDS
            else:
                time.sleep(TICK_SECONDS)
        return False

    def _script(self, taking: ForkServerProcess) -> Iterator[float]:
        """What goes wrong once all are up; then the drainer may be fast."""
        started = time.monotonic()
        while (self.window.owners() or 0) < len(self.fleet.slots) and time.monotonic() < started + START_SECONDS:
            yield LOOK_SECONDS
        yield from kinds.SCRIPTS[self.kind](self)
        assert taking.pid is not None
        os.kill(taking.pid, signal.SIGUSR1)

    def _slots(self, room: Room) -> Iterator[Slot]:
        visiting = self.kind in kinds.VISITING
        visits = f"SWH_SCHED_RUNNER_VISITS__{VISIT_TYPE.upper()}"
        for number in range(self._runners + visiting):
            environment = {
                "SWH_SCHED_RUNNER_DATABASE__URL": self._database_url(room, number),
                "SWH_SCHED_RUNNER_BROKER__URL": self._broker_url(room, number),
                "SWH_SCHED_RUNNER_BROKER__CONFIRM_TIMEOUT_SECONDS": str(CONFIRM_TIMEOUT_SECONDS),
                "SWH_SCHED_RUNNER_RUNNER__BATCH_SIZE": str(self._load.batch_size),
                "SWH_SCHED_RUNNER_WEB__PORT": "0",
                f"{visits}__PERIOD_SECONDS": str(0.1 * self._runners),  # they hold the lock of the queue meanwhile
                f"{visits}__BATCH_SIZE": str(self._load.batch_size),
                "HOME": str(self._directory),
            }
            # One runner beside the visit schedulers: they fill the same queue.
            command = "visits" if visiting and number < self._runners else "run"
            yield Slot(number, [command], environment, self._directory / f"runner-{number}.log")

    def _broker_url(self, room: Room, number: int) -> str:
        if self.kind != "broker-silent":
            return room.broker_url
        proxy = self.broker_proxies[number] = Proxy(room.broker_url)
        self._stack.callback(proxy.stop)
        return proxy.url

    def _database_url(self, room: Room, number: int) -> str:
        if self.kind != "database-silent":
            return room.database_url
        given = {key: values[0] for key, values in parse_qs(urlsplit(room.database_url).query).items()}
        proxy = self.database_proxies[number] = Proxy(f"x+socket://{given['host']}/.s.PGSQL.{given['port']}")
        self._stack.callback(proxy.stop)
        return f"postgresql://{given['user']}@127.0.0.1:{proxy.port}/{room.database}"

    def _process(self, name: str, work: Callable[..., object], *arguments: object) -> ForkServerProcess:
        process = processes.start(self._directory / f"{name}.log", work, *arguments)
        self._stack.callback(_make_sure_of_the_end, process)
        return process

    def _end(self, process: ForkServerProcess | None, name: str) -> list[str]:
        if process is None or end(process, 20):
            return []
        return [f"the {name} failed: see {self._directory / name}.log"]


def _make_sure_of_the_end(process: ForkServerProcess) -> None:
    if process.is_alive():
        process.kill()
    process.join()


def runners_of(seed: int) -> int:
    """How many runners the round with this seed has, unless that is said."""
    return Random(f"runners of {seed}").choice([1, 2, 4])


def play(servers: Servers, directory: Path, seed: int, runners: int | None = None, kind: str | None = None) -> Result:
    """Play the round of this seed."""
    kind = kind or kinds.kind_of(seed)
    return Round(servers, directory / f"round-{seed}", seed, runners or runners_of(seed), kind).run()
