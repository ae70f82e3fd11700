"""One measured run: due tasks become messages, by the wall's clock and the CPU's.

The clock starts when the runners are ready: they have connected, and wait for the table of tasks, which is locked. It
stops when every message is in its queue and, on our side, confirmed: the outbox is empty.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import psutil

from bench.baseline import ROOT, Servers
from bench.dispatch_side import Side, Work
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.embedded import process

LOOK_SECONDS = 0.01
PATIENCE_SECONDS = 7_200.0
# All runners stand at the lock when their number hasn't changed for so long.
SETTLED_SECONDS = 1.0
# A queue is not filled with more messages than these: beyond them it is purged, and what was purged is counted.
MOST_READY = 200_000

WAITING = "select count(*) from pg_locks where relation = cast('task' as regclass) and not granted"
OPEN_BATCHES = "select count(*) from dispatch_batch"

Runners = list["subprocess.Popen[bytes]"]


@dataclass
class Result:
    """What a run took: seconds, and microseconds of CPU a message of the runners, of PostgreSQL and of the broker."""

    work: Work
    seconds: float
    cpu: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.work.tasks / self.seconds


def run(side: Side, work: Work) -> Result:
    """Dispatch all of ``work`` once."""
    with side.prepared(work) as name, Watched(side.servers, work) as queues, ExitStack() as stack:
        gate, watch = (stack.enter_context(closing(side.connect(name))).cursor() for _ in range(2))
        gate.execute("begin")
        gate.execute("lock table task in access exclusive mode")
        runners = [stack.enter_context(started(side, name)) for _ in range(work.runners)]
        _wait_at_gate(watch, runners)
        clock = Clock(side.servers, runners)
        gate.execute("commit")
        wait(queues.all_arrived, runners)
        if side.name == "ours":
            wait(lambda: count(watch, OPEN_BATCHES) == 0, runners)
        seconds, cpu = clock.stop()
        queues.check()
    return Result(work, seconds, {name: spent / work.tasks * 1e6 for name, spent in cpu.items()})


class Watched:
    """The queues of some work, declared as workers do and empty at first; counts what arrives in them."""

    def __init__(self, servers: Servers, work: Work) -> None:
        self._lengths = work.queues()
        self._work = work
        app = create_app(BrokerSettings(url=servers.broker.url()))
        with Queues(app) as queues:
            for queue in self._lengths:
                queues.declare(queue)
        self._connection = connect(app)
        self._channel = self._connection.default_channel
        self._purged = dict.fromkeys(self._lengths, 0)
        self._missing = list(self._lengths)
        self.purge()
        self._purged = dict.fromkeys(self._lengths, 0)

    def all_arrived(self) -> bool:
        """Whether every queue has got what it is to get. Looks at one queue a call, to leave the broker in peace."""
        while self._missing and self._arrived(self._missing[-1]) >= self._lengths[self._missing[-1]]:
            self._missing.pop()
        return not self._missing

    def purge(self) -> int:
        """Empty all queues; answers how many messages have arrived in all."""
        for queue in self._lengths:
            self._purged[queue] += self._channel.queue_purge(queue)
        return sum(self._purged.values())

    def check(self) -> None:
        """Raise unless exactly the work's messages are there."""
        arrived = {queue: self._arrived(queue) for queue in self._lengths}
        if arrived != self._lengths:
            raise click.ClickException(f"{arrived} messages arrived, expected were {self._lengths}")

    def _arrived(self, queue: str) -> int:
        ready: int = self._channel.queue_declare(queue, passive=True).message_count
        if ready > MOST_READY:
            self._purged[queue] += self._channel.queue_purge(queue)
            ready = 0
        return self._purged[queue] + ready

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.release()


@contextmanager
def started(side: Side, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A runner on a database, until the block or this process ends. What it logs is shown if the block fails."""
    command, environment = side.runner(side.url(name))
    path = side.servers.folder / f"{side.name}.log"
    path.unlink(missing_ok=True)
    runner = process.launch(
        command, log=path, death_signal=signal.SIGKILL, environment=os.environ | environment, folder=ROOT
    )
    try:
        yield runner
    except click.ClickException as error:
        raise click.ClickException(f"{error.message}\n{_tail(path)}") from error
    finally:
        runner.terminate()
        try:
            runner.wait(timeout=30)
        except subprocess.TimeoutExpired:
            runner.kill()
            runner.wait()


def wait(condition: Callable[[], bool], runners: Runners) -> None:
    """Wait for a condition, as long as all runners live."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        for runner in runners:
            if runner.poll() is not None:
                raise click.ClickException(f"a runner ended with status {runner.returncode}")
        if time.monotonic() > deadline:
            raise click.ClickException("the benchmark has waited for two hours")
        time.sleep(LOOK_SECONDS)


def _wait_at_gate(cursor: Any, runners: Runners) -> None:
    """Wait until all runners wait for the table of tasks, which their threads may do several times."""
    seen, since = 0, time.monotonic()

    def settled() -> bool:
        nonlocal seen, since
        if (waiting := count(cursor, WAITING)) != seen:
            seen, since = waiting, time.monotonic()
        return seen >= len(runners) and time.monotonic() - since > SETTLED_SECONDS

    wait(settled, runners)


def count(cursor: Any, statement: str) -> int:
    """The number that a statement answers."""
    cursor.execute(statement)
    return int(cursor.fetchone()[0])


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-20:])


class Clock:
    """Seconds by the wall and of CPU, from when it was made."""

    def __init__(self, servers: Servers, runners: Runners) -> None:
        self._processes = {
            "runner": [psutil.Process(runner.pid) for runner in runners],
            "PostgreSQL": [psutil.Process(servers.postgres.pid)],
            "broker": [psutil.Process(servers.broker.pid)],
        }
        self._before = self._spent()
        self._began = time.perf_counter()

    def stop(self) -> tuple[float, dict[str, float]]:
        """Seconds by the wall; and of CPU, by program, with all its processes."""
        seconds = time.perf_counter() - self._began
        return seconds, {name: spent - self._before[name] for name, spent in self._spent().items()}

    def _spent(self) -> dict[str, float]:
        return {name: sum(map(_cpu_seconds, roots)) for name, roots in self._processes.items()}


def _cpu_seconds(root: psutil.Process) -> float:
    """CPU of a process, of its children, and of those that have ended."""
    while True:
        ended = _of_ended(root)
        try:
            living = sum(sum(each.cpu_times()[:2]) for each in (root, *root.children(recursive=True)))
        except psutil.NoSuchProcess:
            continue
        if ended == _of_ended(root):  # else one that has ended meanwhile counts twice or not at all
            return living + ended


def _of_ended(root: psutil.Process) -> float:
    times = root.cpu_times()
    return float(times.children_user + times.children_system)
