"""The processes of a round, forked from one that has everything imported: they start in milliseconds, not a second."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from faults import points
from faults.points import Point
from swh_sched_runner import cli

PR_SET_PDEATHSIG = 1

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "swh_sched_runner.cli.assembly",
        "kombu.transport.pyamqp",
        "sqlalchemy.dialects.postgresql.psycopg2",
        "faults.drainer",
        "faults.caller",
        "faults.lost.app",
        "celery.bin.celery",
        "celery.concurrency.prefork",
        # A child looks at the program of its parent, which is pytest as often as not.
        *(["pytest"] if "pytest" in sys.modules else []),
    ]
)


def start(log: Path, work: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Call ``work(*arguments)`` in a process of its own, which ends with this one; what it prints goes to ``log``."""
    process = _context.Process(target=_enter, args=(log, work, arguments))
    process.start()
    return process


def start_program(
    log: Path, environment: Mapping[str, str], arguments: Sequence[str], point: Point | None = None
) -> ForkServerProcess:
    """Run ``swh-sched-runner`` with these arguments; at ``point`` it kills itself."""
    return start(log, be_program, dict(environment), list(arguments), point)


def make_sure_of_the_end(process: ForkServerProcess) -> None:
    """Kill it if it still runs."""
    if process.is_alive():
        process.kill()
    process.join()


def _enter(log: Path, work: Callable[..., object], arguments: Sequence[Any]) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    work(*arguments)


def be_program(environment: Mapping[str, str], arguments: Sequence[str], point: Point | None = None) -> None:
    """Be ``swh-sched-runner`` with these arguments."""
    for name in [name for name in os.environ if name.startswith("SWH_SCHED_RUNNER_")]:
        del os.environ[name]
    os.environ.update(environment)
    if point is not None:
        points.arm(point)
    sys.exit(cli.run(arguments))
