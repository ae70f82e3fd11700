"""Dispatch of due tasks, here and on the baseline, alternating. See bench/README.md."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.baseline import measured_on, servers, system_binaries
from bench.dispatch_plan import Grab, grab
from bench.dispatch_run import Result, run
from bench.dispatch_side import Baseline, Ours, Side, Work
from bench.report import Plot, command, median_and_range, publish, table

TARGET = 3.5  # times the baseline's rate
TABLE_TARGET = 0.8  # of the rate at 100 thousand rows, at 10 million


@dataclass(frozen=True)
class Point:
    """Some work, and how many runs of it each side makes."""

    work: Work
    ours: int = 5
    baseline: int = 0


@dataclass(frozen=True)
class Part:
    """Points that differ in one thing: how it is called, and where it stands in a piece of work.

    With ``plans`` it is told how a batch is grabbed at each point.
    """

    label: str
    key: Callable[[Work], float]
    points: Sequence[Point]
    logarithmic: bool = False
    plans: bool = False


def quick_parts() -> dict[str, Part]:
    """What fits in a few minutes."""
    points = [Point(Work(20_000, types), 5, 5) for types in (1, 20)]
    return {"types": Part("number of task types", lambda work: work.types, points, plans=True)}


def full_parts() -> dict[str, Part]:
    """All of it. What takes the baseline long it does less often."""
    tasks = 100_000
    types = [Point(Work(tasks, n), 5, 5 if n in (1, 20) else 3) for n in (1, 2, 5, 10, 20)]
    # How the baseline grows is not asked: each of its tables takes five minutes to make.
    tables = [Point(Work(tasks, table=rows)) for rows in (10_000, 100_000, 1_000_000, 10_000_000)]
    # The baseline would take a million due tasks into memory at once, and ten minutes. Ten million take us twenty.
    sizes = ((10_000, 5, 1), (tasks, 5, 1), (1_000_000, 1, 0), (10_000_000, 1, 0))
    ready = [Point(Work(n), runs, baseline) for n, runs, baseline in sizes]
    runners = [Point(Work(tasks, 20, runners=n)) for n in (1, 2, 3, 4)]
    return {
        "types": Part("number of task types", lambda work: work.types, types),
        "table": Part("number of other rows in task", lambda work: work.table, tables, logarithmic=True, plans=True),
        "ready": Part("number of due tasks", lambda work: work.tasks, ready, logarithmic=True),
        "runners": Part("number of runners", lambda work: work.runners, runners),
    }


@dataclass
class Measured:
    """The results of a part, by side and point; and how our runner grabs at each point."""

    results: Mapping[str, dict[Work, list[Result]]] = field(default_factory=lambda: {"ours": {}, "baseline": {}})
    grabs: dict[Work, Grab] = field(default_factory=dict)

    def rates(self, side: str, work: Work) -> list[float]:
        """Messages per second of each run."""
        return [result.rate for result in self.results[side].get(work, [])]

    def cpu(self, side: str, work: Work, program: str) -> float:
        """Microseconds of CPU a message, the median."""
        return statistics.median(result.cpu[program] for result in self.results[side][work])


def measure(part: Part, ours: Side, baseline: Side) -> Measured:
    """A run of each point and side after the other, then the next of each."""
    measured = Measured()
    for number in range(max(max(point.ours, point.baseline) for point in part.points)):
        for point in part.points:
            for side, runs in ((ours, point.ours), (baseline, point.baseline)):
                if number >= runs:
                    continue
                result = run(side, point.work)
                measured.results[side.name].setdefault(point.work, []).append(result)
                at = f"{part.label}: {part.key(point.work):,.0f}"
                click.echo(f"{at}, run {number + 1} of {runs}, {side.name}: {result.rate:,.0f}/s", err=True)
    for point in part.points if part.plans else ():
        measured.grabs[point.work] = grab(ours, point.work)
    return measured


def rates_table(part: Part, measured: Measured) -> str:
    """The rates of a part."""
    rows = []
    for point in part.points:
        mine, other = (measured.rates(side, point.work) for side in ("ours", "baseline"))
        ratio = f"{statistics.median(mine) / statistics.median(other):.2f}" if mine and other else "–"
        rows.append([f"{part.key(point.work):,.0f}", median_and_range(mine), median_and_range(other), ratio])
    return table([part.label, "ours, messages/s", "baseline, messages/s", "ratio"], rows)


def cpu_table(part: Part, measured: Measured) -> str:
    """Where the time of a message goes, on both sides."""
    rows = []
    for side, by_work in measured.results.items():
        for work in by_work:
            spent = [measured.cpu(side, work, program) for program in ("runner", "PostgreSQL", "broker")]
            rows.append([side, f"{part.key(work):,.0f}", *(f"{each:.0f}" for each in (*spent, sum(spent)))])
    return table(["µs of CPU a message", part.label, "runner", "PostgreSQL", "broker", "all"], rows)


def plan_lines(part: Part, measured: Measured) -> str:
    """How a batch is grabbed at each point, and whether always in the same way."""
    lines = [f"- {part.label} {part.key(work):,.0f}: {each}" for work, each in measured.grabs.items()]
    alike = len({each.plan for each in measured.grabs.values()}) == 1
    return "\n".join(["How a batch is grabbed" + (", the same at every size:" if alike else ":"), "", *lines])


def verdict(name: str, part: Part, measured: Measured) -> str | None:
    """How the figures of a part compare with the target; None where there is none."""
    first, last = part.points[0].work, part.points[-1].work
    if name == "types":
        return f"Target: at least {TARGET:g} times the baseline's rate, with 1 type and with 20."
    if name == "table":
        hundred = next(point.work for point in part.points if point.work.table == 100_000)
        small, large = (statistics.median(measured.rates("ours", work)) for work in (hundred, last))
        share = f"The rate with {last.table:,} rows is {large / small:.2f} of that with {hundred.table:,}"
        return f"{share}; target: at least {TABLE_TARGET:g}."
    if name == "runners":
        one, all_of_them = (statistics.median(measured.rates("ours", work)) for work in (first, last))
        return f"{last.runners} runners dispatch {all_of_them / one:.2f} times as much as one, on the same cores."
    return None


def plot(name: str, part: Part, measured: Measured) -> str:
    """The rates of a part, drawn."""
    curves = {
        side: {part.key(work): [each.rate for each in results] for work, results in by_work.items()}
        for side, by_work in measured.results.items()
        if by_work
    }
    title = f"Dispatch, by {part.label}"
    return Plot(title, part.label, curves, part.logarithmic).write(f"dispatch-{name}.svg")


def text(name: str, part: Part, measured: Measured, head: str, *, drawn: bool) -> str:
    """All that is said of a part."""
    said = [f"### By {part.label}", head, rates_table(part, measured), verdict(name, part, measured)]
    said.append(cpu_table(part, measured) if name == "types" else None)
    said.append(plan_lines(part, measured) if part.plans else None)
    said.append(plot(name, part, measured) if drawn else None)
    return "\n\n".join(each for each in said if each is not None)


def main() -> None:
    """Measure the parts that are asked for; print them, or write them to docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all parts at full size, about an hour and a half")
    parser.add_argument("--part", action="append", choices=[*full_parts()], help="only this part; may be repeated")
    parser.add_argument("--write", action="store_true", help="put tables and plots into docs/performance.md")
    options = parser.parse_args()
    parts = full_parts() if options.full else quick_parts()
    binaries = system_binaries()
    with tempfile.TemporaryDirectory() as name, servers(Path(name), binaries) as both:
        ours, baseline = Ours(both), Baseline(both)
        for name, part in parts.items():
            if options.part and name not in options.part:
                continue
            measured = measure(part, ours, baseline)
            head = measured_on(binaries, both.broker_version(), size_of(part))
            head = f"{command('bench-dispatch', options.full)}: {head}"
            publish(f"dispatch {name}", text(name, part, measured, head, drawn=options.write), write=options.write)


def size_of(part: Part) -> str:
    """How much work, and how often."""
    tasks = sorted({point.work.tasks for point in part.points})
    many = f"{tasks[0]:,}" if len(tasks) == 1 else f"{tasks[0]:,} to {tasks[-1]:,}"
    runs = sorted({each for point in part.points for each in (point.ours, point.baseline) if each})
    return f"{many} due tasks, medians (and ranges) of {'–'.join(map(str, dict.fromkeys((runs[0], runs[-1]))))} runs"


if __name__ == "__main__":
    main()
