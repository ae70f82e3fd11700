"""Events of workers into the database, here and on the baseline, alternating. See bench/README.md."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import psutil

from bench.baseline import measured_on, servers, system_binaries
from bench.dispatch_run import Clock, count, started, wait
from bench.events_side import STILL_OPEN, BaselineListener, Bodies, Listening, OurListener, Work, bodies, publish
from bench.report import command, median_and_range, table
from bench.report import publish as show

TARGET = 25  # times the baseline's rate
TABLE_TARGET = 1.25  # times the CPU of a small table, at most
MEMORY_TARGET = 120  # megabytes
RUNS = 5
MEGABYTE = 1_048_576
LAST = 200
LONE_EVENTS = 30
STEP = 500  # messages that are published at once where the rate is given
# The oldest of the ended runs, as if their tasks had been dispatched again since.
OLD_RUNS = """
update task_run
set scheduled = now() - interval '100 days', started = now() - interval '100 days', ended = now() - interval '99 days'
where id <= %(runs)s;
update task set run_id = null where id <= %(runs)s
"""
PROGRAMS = ("listener", "PostgreSQL", "broker")


@dataclass
class Result:
    """Events per second, and microseconds of CPU an event by program."""

    rate: float
    cpu: Mapping[str, float]
    resident: float


def run(side: Listening, work: Work) -> Result:
    """Publish while the listener is stopped, then let it go on until the last run has ended."""
    with side.opened(work) as (name, ids), started(side, name) as listener:
        messages = bodies(work, ids)
        _until_it_consumes(side, listener)
        listener.send_signal(signal.SIGSTOP)
        publish(side.servers.broker.port, side.vhost, messages)
        with closing(side.connect(name)) as conn, conn.cursor() as cursor:
            clock = Clock(side.servers, [listener])
            listener.send_signal(signal.SIGCONT)
            wait(lambda: _still_open(cursor, ids[-LAST:]) == 0, [listener])
            seconds, cpu = clock.stop()
            resident = psutil.Process(listener.pid).memory_info().rss / MEGABYTE
            wait(lambda: _still_open(cursor, ids) == 0, [listener])
    spent = {program: cpu[key] / work.events * 1e6 for program, key in zip(PROGRAMS, cpu, strict=True)}
    return Result(work.events / seconds, spent, resident)


def _still_open(cursor: Any, ids: list[str]) -> int:
    cursor.execute(STILL_OPEN, (ids,))
    return int(cursor.fetchone()[0])


def _until_it_consumes(side: Listening, listener: subprocess.Popen[bytes]) -> None:
    path = f"/api/consumers/{side.vhost}"
    wait(lambda: bool(cast(list[Any], side.servers.broker.api("GET", path))), [listener])


def lone_events(side: Listening) -> list[float]:
    """Milliseconds from one event, to an idle listener, to its commit."""
    work, taken = Work("single", LONE_EVENTS), []
    with side.opened(work) as (name, ids), started(side, name) as listener:
        _until_it_consumes(side, listener)
        messages = bodies(work, ids)[:LONE_EVENTS]
        with closing(side.connect(name)) as conn, conn.cursor() as cursor:
            for number, message in enumerate(messages, 1):
                publish(side.servers.broker.port, side.vhost, [message])
                began = time.perf_counter()
                while count(cursor, "select count(*) from task_run where started is not null") < number:
                    pass
                taken.append((time.perf_counter() - began) * 1e3)
    return taken[1:]


def measure(sides: Mapping[Listening, Mapping[Work, int]]) -> dict[tuple[str, Work], list[Result]]:
    """A run of each side and kind of work after the other, then the next of each."""
    results: dict[tuple[str, Work], list[Result]] = {}
    for number in range(max(max(works.values()) for works in sides.values())):
        for side, works in sides.items():
            for work, runs in works.items():
                if number < runs:
                    result = run(side, work)
                    results.setdefault((side.name, work), []).append(result)
                    what = f"{side.name}, {work.kind}, {work.ended:,} ended runs"
                    click.echo(f"{what}, run {number + 1} of {runs}: {result.rate:,.0f} events/s", err=True)
    return results


def rates(results: Mapping[tuple[str, Work], list[Result]]) -> str:
    """Events per second of both sides, and their ratio."""
    theirs = {work.kind: found for (name, work), found in results.items() if name == "baseline"}
    rows = []
    for (name, work), found in results.items():
        if name != "ours":
            continue
        mine, other = ([each.rate for each in some] for some in (found, theirs[work.kind]))
        ratio = f"{statistics.median(mine) / statistics.median(other):.1f}"
        rows.append([work.kind, median_and_range(mine), median_and_range(other), ratio])
    return table(["messages", "ours, events/s", "baseline, events/s", "ratio"], rows)


def cpu(results: Mapping[tuple[str, Work], list[Result]]) -> str:
    """Where the time of an event goes."""
    rows = []
    for (name, work), found in results.items():
        spent = [statistics.median(each.cpu[program] for each in found) for program in PROGRAMS]
        rows.append([name, work.kind, f"{work.ended:,}", *(f"{each:.0f}" for each in (*spent, sum(spent)))])
    return table(["µs of CPU an event", "messages", "ended runs", *PROGRAMS, "all"], rows)


def beside_the_baseline(ours: OurListener, baseline: BaselineListener, runs: int) -> str:
    """Rates and CPU of each kind of messages; the baseline has ``runs`` of the open runs end, which takes it longer."""
    kinds = ("single", "lists", "all four")
    sides: dict[Listening, dict[Work, int]] = {
        ours: {Work(kind, 20_000): RUNS for kind in kinds},
        baseline: {Work(kind, runs): RUNS for kind in kinds},
    }
    results = measure(sides)
    lone = lone_events(ours)
    said = [
        rates(results),
        f"Target: at least {TARGET} times the baseline's rate. *single*: a start and a result a run, a message each; "
        "*lists*: starts in lists of 20, results between them; *all four*: received, started, result and succeeded, "
        "all but results in lists. Both sides have 20,000 open runs; of these so many end: ours "
        f"20,000, the baseline's {runs:,}.",
        cpu(results),
        f"A lone event to an idle listener is committed {statistics.median(lone):.0f} ms after the broker has it "
        f"(at most {max(lone):.0f}).",
    ]
    return "\n\n".join(said)


def by_table(ours: OurListener, ended: list[int]) -> str:
    """How the cost grows with the runs that are kept."""
    results = measure({ours: {Work("single", 20_000, ended=rows): 3 for rows in ended}})
    totals = [statistics.median(sum(each.cpu.values()) for each in found) for found in results.values()]
    growth = f"Beside {ended[-1]:,} ended runs an event costs {totals[-1] / totals[0]:.2f} times what it costs beside "
    return "\n\n".join([cpu(results), f"{growth}{ended[0]:,}; target: at most {TABLE_TARGET:g}."])


def memory(ours: OurListener, runs: int) -> str:
    """Resident memory after a first part of the events, and after all."""
    first, all_of_them = (run(ours, Work("lists", n, open=n)).resident for n in (runs // 10, runs))
    rows = [[f"{runs:,}", f"{first:.0f}", f"{all_of_them:.0f}", f"{all_of_them - first:.0f}"]]
    head = ["runs", "after a tenth, MB", "after all, MB", "growth, MB"]
    return table(head, rows) + f"\n\nTarget: at most {MEMORY_TARGET} MB, and no growth."


def pruning(ours: OurListener, kept: int, pruned: int, open_runs: int) -> str:
    """How long a batch of events takes while runs are pruned, with events at half the rate that was measured before."""
    top = run(ours, Work("single", 20_000, ended=kept)).rate
    work = Work("single", open_runs, open=open_runs, ended=kept)
    with ours.opened(work) as (name, ids):
        with closing(ours.connect(name)) as conn, conn.cursor() as cursor:
            cursor.execute(OLD_RUNS, {"runs": pruned})
        with started(ours, name) as listener:
            _until_it_consumes(ours, listener)
            messages = bodies(work, ids)
            before = _longest_batch(ours, messages[: len(messages) // 10], top / 2)
            sending = threading.Thread(target=publish_at, args=(ours, messages[len(messages) // 10 :], top / 2))
            sending.start()
            began = time.monotonic()
            program, environment = ours.runner(ours.url(name))
            prune = [*program[:-1], "runs", "prune", "--older-than", "30d", "--json"]
            said = subprocess.run(prune, env=os.environ | environment, check=True, capture_output=True, text=True)
            seconds = time.monotonic() - began
            still_sending = sending.is_alive()
            during = longest(ours)
            sending.join()
            with closing(ours.connect(name)) as conn, conn.cursor() as cursor:
                wait(lambda: _still_open(cursor, ids[-LAST:]) == 0, [listener])
    done = sum(json.loads(said.stdout)["pruned"].values())
    if done != pruned or not still_sending:
        raise click.ClickException(f"{done:,} runs pruned in {seconds:.0f} s, events all along: {still_sending}")
    rows = [[f"{pruned:,} of {kept:,}", f"{seconds:.0f}", f"{top / 2:,.0f}", f"{before:,}", f"{during:,}"]]
    head = ["pruned runs", "seconds", "events/s meanwhile", "longest batch before, ms", "longest batch meanwhile, ms"]
    return table(head, rows) + "\n\nTarget: no batch takes longer than a second."


def _longest_batch(side: OurListener, messages: Bodies, rate: float) -> int:
    publish_at(side, messages, rate)
    return longest(side)


def longest(side: OurListener) -> int:
    """Milliseconds that the longest batch took, by the listener's log."""
    log = (side.servers.folder / f"{side.name}.log").read_text()
    return max((int(found) for found in re.findall(r"events recorded.* ms=(\d+)", log)), default=0)


def publish_at(side: OurListener, messages: Bodies, rate: float) -> None:
    """Publish so many messages a second."""
    began = time.monotonic()
    for at in range(0, len(messages), STEP):
        time.sleep(max(0.0, began + at / rate - time.monotonic()))
        publish(side.servers.broker.port, side.vhost, messages[at : at + STEP])


def main() -> None:
    """Measure, print, and with ``--write`` put it into docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a million runs, 10 million kept, all on both sides")
    parser.add_argument("--part", action="append", choices=["rate", "table", "memory", "prune"], help="only this part")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    binaries = system_binaries()
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder), binaries) as both:
        ours, baseline = OurListener(both), BaselineListener(both)
        version = both.broker_version().split(",")[0]
        parts = {
            "rate": lambda: beside_the_baseline(ours, baseline, 20_000 if options.full else 1_000),
            "table": lambda: by_table(ours, [20_000, 10_000_000] if options.full else [20_000, 500_000]),
            "memory": lambda: memory(ours, 1_000_000 if options.full else 100_000),
            "prune": lambda: (
                pruning(ours, 10_000_000, 1_000_000, 700_000)
                if options.full
                else pruning(ours, 450_000, 50_000, 50_000)
            ),
        }
        for name, part in parts.items():
            if options.part and name not in options.part:
                continue
            head = f"{command('bench-events', options.full)}: {measured_on(binaries, version, 'transient events')}"
            show(f"events {name}", f"### Events: {name}\n\n{head}\n\n{part()}", write=options.write)


if __name__ == "__main__":
    main()
