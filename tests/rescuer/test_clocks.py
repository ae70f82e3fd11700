"""Machines whose clocks are wrong: no clock of a worker decides that a run is lost.

The test took, on two loaded cores: 44 s.
"""

from __future__ import annotations

import pytest

from tests.support.fleet import QUEUE, Fleet
from tests.support.processes.workers import ROOT, WorkerProcess
from tests.support.wait import until

HOUR = 3_600
WRONG_CLOCK = ROOT / "tests" / "support" / "processes" / "clock"


def worker_whose_clock_is_ahead(fleet: Fleet, seconds: float, name: str, queue: str) -> WorkerProcess:
    environment = {"CLOCK_SECONDS": str(seconds), "PYTHONPATH": f"{WRONG_CLOCK}:{ROOT}"}
    return fleet.worker(name, queue=queue, environment=environment)


@pytest.mark.trial
def test_of_workers_whose_clocks_are_hours_apart_only_the_dead_one_loses_its_run(fleet: Fleet) -> None:
    early = worker_whose_clock_is_ahead(fleet, HOUR, "w1", QUEUE)
    late = worker_whose_clock_is_ahead(fleet, -HOUR, "w2", "stock_wait")
    of_early = fleet.started("early")
    of_late = fleet.create_other("stock_wait", str(fleet.file("late")), 110)
    until(lambda: fleet.run(of_late)["started"] is not None, 30)
    offsets = {life.hostname: life.clock_offset for life in fleet.lives()}
    assert offsets == {early.hostname: pytest.approx(-HOUR, abs=60), late.hostname: pytest.approx(HOUR, abs=60)}

    fleet.untouched(of_early, of_late)
    early.kill()

    fleet.rescue_until(lambda: fleet.verdict(of_early), 60, of_late, what="a verdict")
    fleet.let_end("early", "late")
    assert fleet.end(of_late)["status"] == "eventful"
    assert fleet.verdicts() == ["worker died"]
