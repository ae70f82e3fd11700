"""How long a task takes from its creation into its queue, here and on the baseline. See bench/README.md."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from bench.baseline import BASELINE, HERE, Servers, measured_on, servers, system_binaries
from bench.dispatch_run import started
from bench.dispatch_side import BACKEND_NAME, Baseline, Ours, Side
from bench.report import command, publish, table
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.embedded import process

Times = list[tuple[float, float]]
SIDE = HERE / "latency_side.py"
LOADS = {"idle runner": False, "with 100 other tasks/s": True}
TITLE = "### From a task's creation into its queue"
SIZE = "tasks one at a time, 50 to 350 ms apart, both sides alternating"
QUEUES = {"sample": BACKEND_NAME.format(1), "load": BACKEND_NAME.format(2)}
PYTHON = {"ours": Path(sys.executable), "baseline": BASELINE / "bin/python"}


def side_command(side: Side, work: str, samples: int, first: int) -> list[str]:
    """How to run a side's part."""
    url, broker = side.url(f"{side.name}_latency"), side.servers.broker.url()
    return [str(PYTHON[side.name]), str(SIDE), side.name, url, broker, QUEUES[work], work, str(samples), str(first)]


@contextmanager
def loaded(side: Side, first: int) -> Iterator[None]:
    """A light load, until the block or this process ends."""
    loading = process.launch(
        side_command(side, "load", 0, first),
        log=side.servers.folder / "load.log",
        death_signal=signal.SIGKILL,
        environment=os.environ | {"PYTHONPATH": ""},
    )
    try:
        yield
        if loading.poll() is not None:
            raise click.ClickException(f"{side.name}: the load ended with status {loading.returncode}")
    finally:
        loading.kill()
        loading.wait()


def sample(side: Side, samples: int, run: int, *, load: bool) -> Times:
    """Seconds from the call of create_tasks to the message in its queue, and to the call's return."""
    first = run * 10_000_000
    with ExitStack() as stack:
        stack.enter_context(started(side, f"{side.name}_latency"))
        if load:
            stack.enter_context(loaded(side, first + 1_000_000))
        environment = os.environ | {"PYTHONPATH": ""}
        work = side_command(side, "sample", samples, first)
        done = subprocess.run(work, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise click.ClickException(f"{side.name}: {done.stderr[-2000:]}")
    times: Times = [(arrived, returned) for arrived, returned in json.loads(done.stdout.splitlines()[-1])]
    return times


def measure(both: Servers, samples: int, runs: int) -> dict[tuple[str, str], Times]:
    """All series, by side and load; a run of each after the other."""
    app = create_app(BrokerSettings(url=both.broker.url()))
    with Queues(app) as queues:
        for queue in QUEUES.values():
            queues.declare(queue)
    sides: tuple[Side, ...] = (Ours(both), Baseline(both))
    for side in sides:
        side.make(f"{side.name}_latency")
    measured: dict[tuple[str, str], Times] = {}
    for run in range(runs * len(LOADS)):
        name, load = list(LOADS.items())[run % len(LOADS)]
        for side in sides:
            times = sample(side, samples // runs, run, load=load)
            measured.setdefault((name, side.name), []).extend(times)
            middle = 1e3 * percentile([arrived for arrived, _ in times], 0.5)
            click.echo(f"{name}, run {run // len(LOADS) + 1} of {runs}, {side.name}: p50 {middle:.1f} ms", err=True)
    return measured


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of the values doesn't exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def latencies(measured: dict[tuple[str, str], Times]) -> str:
    """The table of all series."""
    rows = []
    for (name, side), times in measured.items():
        arrived = [seconds for seconds, _ in times]
        returned = [seconds for _, seconds in times]
        figures = (*(percentile(arrived, share) for share in (0.5, 0.99, 1.0)), percentile(returned, 0.5))
        rows.append([name, side, f"{len(times):,}", *(f"{1e3 * seconds:,.1f}" for seconds in figures)])
    return table(["", "side", "tasks", "p50, ms", "p99, ms", "max, ms", "of which create_tasks, p50"], rows)


def main() -> None:
    """Measure both sides alternating; print a table, or write it to docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="500 tasks a series in 5 runs, instead of 100 in 2")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    binaries = system_binaries()
    with tempfile.TemporaryDirectory() as name, servers(Path(name), binaries) as both:
        measured = measure(both, *((500, 5) if options.full else (100, 2)))
        head = f"{command('bench-latency', options.full)}: {measured_on(binaries, both.broker_version(), SIZE)}"
        target = "Target: p50 at most 8 ms, p99 at most 30 ms."
        publish("dispatch latency", "\n\n".join([TITLE, head, latencies(measured), target]), write=options.write)


if __name__ == "__main__":
    main()
