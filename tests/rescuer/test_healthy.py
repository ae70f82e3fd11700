"""A fleet in which nothing is wrong: the rescuer finds nothing.

The tests took, in their order, on two loaded cores: 45 s, 109 s (trial).
"""

from __future__ import annotations

import subprocess

import pytest

from swh_sched_runner.model import Task
from tests.support.fleet import OTHER_QUEUE, Fleet
from tests.support.processes.programs import Programs

PER_ROUND = 5_000  # more than the workers do during a look
NONE = "no run is lost, as far as can be told"


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=[pytest.mark.trial, pytest.mark.timeout(300)])])
def test_a_healthy_fleet_under_load_has_no_verdicts(fleet: Fleet, programs: Programs, rounds: int) -> None:
    fleet.worker("w1", concurrency=2)
    fleet.worker("w2", queue=OTHER_QUEUE, concurrency=2, stock=True)
    slow = [fleet.started("a"), fleet.started("b"), *fleet.received("c"), *fleet.create("d", "e", "f")]
    quick: list[Task] = []
    done: list[subprocess.CompletedProcess[str]] = []
    under_load = []

    for _ in range(rounds):
        quick += fleet.create_quick(PER_ROUND)
        done.append(programs.run("rescue", "--once", "--dry-run"))
        under_load.append(fleet.count_ended(OTHER_QUEUE) < len(quick))
    assert any(under_load)
    fleet.let_end(*"abcdef")

    assert [(each.returncode, each.stderr) for each in done if each.returncode] == []
    assert [line for each in done for line in _verdicts(each.stdout)] == []
    assert [fleet.end(task)["status"] for task in slow] == ["eventful"] * len(slow)
    assert fleet.verdicts() == []


def _verdicts(printed: str) -> list[str]:
    """The lines with a verdict: all but the heading, and runs that can't be judged."""
    lines = printed.splitlines()
    if [line.strip() for line in lines] == [NONE]:
        return []
    return [line for line in lines[1:] if "undecided: " not in line]
