"""On Redis no connection of a worker can be seen: its name taken again, or an operator, says that it is over.

The tests took, in their order, on two loaded cores: 15 s, 37 s, 8 s (the last two are trials).
That a queue was purged, and that an end was dropped beside a living worker, is in
tests/services/rescuer/test_with_workers.py and test_lost_events.py.
"""

from __future__ import annotations

import pytest

from tests.rescuer.conftest import MakeFleet
from tests.support.fleet import LATE_ACKS, Fleet
from tests.support.wait import until


@pytest.fixture
def fleet(make_fleet: MakeFleet, valkey_url: str) -> Fleet:
    return make_fleet(valkey_url)


def test_the_run_of_a_killed_worker_is_lost_when_that_is_forgotten(fleet: Fleet) -> None:
    first = fleet.worker("w1")
    held = fleet.started("held")
    fleet.worker("w2")

    first.kill()
    fleet.let_end("held")
    fleet.rescue_for(3, held)
    fleet.forget(first)

    assert fleet.rescue_lost(held) == "worker died"
    until(lambda: [run["status"] for run in fleet.runs(held)] == ["lost", "eventful"], 30)
    assert fleet.verdicts() == ["worker died"]


@pytest.mark.trial
def test_a_worker_killed_and_back_under_its_name_loses_its_old_run_only(fleet: Fleet) -> None:
    worker = fleet.worker("w1")
    old = fleet.started("old")

    worker.kill()
    fleet.worker("w1")
    new = fleet.started("new")

    fleet.rescue_until(lambda: fleet.verdict(old), 90, new, what="a verdict")
    fleet.let_end("old", "new")
    assert fleet.end(new)["status"] == "eventful"
    assert fleet.verdicts() == ["worker died"]


@pytest.mark.trial
def test_a_message_that_a_forgotten_worker_had_in_hand_is_found(fleet: Fleet) -> None:
    worker = fleet.worker("w1", config=LATE_ACKS)
    held = fleet.started("held")

    worker.kill()
    fleet.forget(worker)
    fleet.untouched(held, seconds=0)  # Redis keeps it for the visibility timeout

    assert fleet.verdicts() == []
