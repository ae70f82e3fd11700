"""Resident memory of our runner while it dispatches very many tasks. See bench/README.md."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click
import psutil

from bench.baseline import Servers, measured_on, servers, system_binaries
from bench.dispatch_run import OPEN_BATCHES, Watched, count, started, wait
from bench.dispatch_side import Ours, Work
from bench.report import command, publish, table

TYPES = 20
LIMIT = 5_000
DRAIN_SECONDS = 0.1
MEGABYTE = 1_048_576
TITLE = "### Memory of the runner"
TARGET = 120  # megabytes

Samples = list[tuple[int, float]]


def sample(both: Servers, tasks: int) -> tuple[Samples, float]:
    """Messages that had arrived and resident bytes, again and again until all were there; and how long it took.

    The queues are emptied meanwhile, as workers do, and at times they are full.
    """
    side, work = Ours(both), Work(tasks, TYPES, bound=LIMIT)
    with side.prepared(work) as name, Watched(both, work) as queues, started(side, name) as runner:
        process, samples = psutil.Process(runner.pid), []
        began = time.monotonic()

        def all_arrived() -> bool:
            arrived = queues.purge()
            samples.append((arrived, float(process.memory_info().rss)))
            time.sleep(DRAIN_SECONDS)
            return arrived >= tasks

        wait(all_arrived, [runner])
        seconds = time.monotonic() - began
        with closing(side.connect(name)) as conn, conn.cursor() as cursor:
            wait(lambda: count(cursor, OPEN_BATCHES) == 0, [runner])
        queues.check()
    return samples, seconds


def resident(samples: Samples, tasks: int, begin: float, end: float) -> Sequence[float]:
    """Megabytes while such a share of the tasks was dispatched."""
    found = [size / MEGABYTE for arrived, size in samples if begin * tasks < arrived <= end * tasks]
    if not found:
        raise click.ClickException("too few tasks: nothing was sampled while a tenth of them was dispatched")
    return found


def main() -> None:
    """Dispatch, and print the memory; or write it to docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a million tasks instead of 100 thousand")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    tasks = 1_000_000 if options.full else 100_000
    binaries = system_binaries()
    with tempfile.TemporaryDirectory() as name, servers(Path(name), binaries) as both:
        samples, seconds = sample(both, tasks)
        size = f"{tasks:,} tasks of {TYPES} types, queues of {LIMIT:,}, {seconds:.0f} s"
        head = f"{command('bench-memory', options.full)}: {measured_on(binaries, both.broker_version(), size)}"
    first, last, ever = (resident(samples, tasks, *part) for part in ((0, 0.1), (0.9, 1), (0, 1)))
    figures = [statistics.median(first), statistics.median(last), max(ever)]
    rows = [[f"{tasks:,}", *(f"{each:.0f}" for each in (*figures, figures[1] - figures[0]))]]
    shown = table(["tasks", "first tenth, MB", "last tenth, MB", "most, MB", "growth, MB"], rows)
    target = f"Resident memory of the runner; target: at most {TARGET} MB, and no growth."
    publish("dispatch memory", "\n\n".join([TITLE, head, shown, target]), write=options.write)


if __name__ == "__main__":
    main()
