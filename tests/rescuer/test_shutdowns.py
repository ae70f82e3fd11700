"""Workers that are told to end: what they finish counts, what they drop is lost or delivered again.

The tests took, in their order, on two loaded cores: 29 s, 14 s, 23 s.
"""

from __future__ import annotations

import pytest

from tests.support.fleet import LATE_ACKS, Fleet
from tests.support.wait import until


def test_a_warm_shutdown_with_a_running_task_loses_nothing(fleet: Fleet) -> None:
    worker = fleet.worker("w1")
    held = fleet.started("held")

    worker.kill("SIGTERM")
    until(lambda: any(life.is_leaving for life in fleet.lives()), 30)
    fleet.untouched(held)
    fleet.let_end("held")

    assert fleet.end(held)["status"] == "eventful"
    fleet.rescue_until(lambda: fleet.lives()[0].ended_by == "left", 30, what="its last task has ended, so it is over")
    assert fleet.verdicts() == []


def test_a_cold_shutdown_cancels_its_run(fleet: Fleet) -> None:
    worker = fleet.worker("w1")
    held = fleet.started("held")

    worker.kill("SIGQUIT")
    until(lambda: worker.status == "exited", 30)
    fleet.let_end("held")
    fleet.worker("w2")

    assert fleet.rescue_lost(held) == "cancelled"
    until(lambda: [run["status"] for run in fleet.runs(held)] == ["lost", "eventful"], 30)


@pytest.mark.trial
def test_a_cold_shutdown_with_late_acks_loses_nothing(fleet: Fleet) -> None:
    worker = fleet.worker("w1", config=LATE_ACKS)
    held = fleet.started("held")

    worker.kill("SIGQUIT")
    until(lambda: worker.status == "exited", 30)
    second = fleet.worker("w2", config=LATE_ACKS)
    until(second.executions, 30)
    fleet.untouched(held)
    fleet.let_end("held")

    assert fleet.end(held)["status"] == "eventful"
    assert len(fleet.runs(held)) == 1
    assert fleet.verdicts() == []
