"""Creation in bulk, here and on the baseline, alternating. See bench/README.md."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from bench.baseline import BASELINE, HERE, SETTINGS, make_baseline, make_ours, measured_on, system_binaries
from bench.report import command, publish, table
from swh_sched_runner.db import scratch
from swh_sched_runner.embedded.postgres import Postgres

# work, and and the target as a multiple of the baseline's rate
WORKS = {
    "create_tasks": 2.5,
    "create_tasks again": 2.5,
    "8 callers at once": 2.5,
    "origins insert": 2.0,
    "origins upsert": 2.0,
    "stats unlisted, insert": 1.0,
    "stats unlisted, update": 1.0,
    "stats listed, first": 1.0,
    "stats listed, update": 1.0,
    "stats listed, successful visits": 1.0,
}


def one_run(python: Path, side: str, url: str, rows: int, run: int) -> dict[str, float]:
    """Rows per second of each work, from a process of its own."""
    command = [str(python), str(HERE / "create_side.py"), side, url, str(rows), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": ""})
    if done.returncode:
        raise click.ClickException(f"{side}: {done.stderr[-2000:]}")
    click.echo(done.stderr, err=True, nl=False)
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def measure(binaries: Path, rows: int, runs: int) -> dict[str, list[dict[str, float]]]:
    """The rates of both sides. They alternate in going first, each after a checkpoint."""
    rates: dict[str, list[dict[str, float]]] = {"ours": [], "baseline": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Postgres(folder / "pg", binaries=binaries, options=SETTINGS) as server:
            sides = {
                "ours": (Path(sys.executable), make_ours(server)),
                "baseline": (BASELINE / "bin/python", make_baseline(server, folder)),
            }
            for run in range(runs):
                for side in list(sides) if run % 2 == 0 else list(reversed(sides)):
                    python, url = sides[side]
                    scratch.execute(server.url(), "checkpoint")
                    rates[side].append(one_run(python, side, url, rows, run))
    return rates


def main() -> None:
    """Run both sides alternating and print medians and ratios; or write them to docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="100,000 rows instead of 20,000")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--rows", type=int, help="another number of rows")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    binaries = system_binaries()
    rows = options.rows or (100_000 if options.full else 20_000)
    rates = measure(binaries, rows, options.runs)
    size = (
        f"{rows:,} rows, medians of {options.runs} runs, the sides alternating in going first, each after a checkpoint"
    )
    head = f"{command('bench-create', options.full)}: {measured_on(binaries, size)}"
    lines = []
    for work, target in WORKS.items():
        mine, other = (statistics.median(run[work] for run in rates[side]) for side in ("ours", "baseline"))
        lines.append([work, f"{mine:,.0f}", f"{other:,.0f}", f"{mine / other:.2f}", f"≥ {target:g}"])
    shown = table(["work", "ours, rows/s", "baseline, rows/s", "ratio", "target"], lines)
    publish("creation", f"{head}\n\n{shown}", write=options.write)


if __name__ == "__main__":
    main()
