"""Workers that are stopped as a whole and continued, as on a machine that hangs.

The tests took, in their order, on two loaded cores: 25 s, 25 s, 29 s.
"""

from __future__ import annotations

import pytest

from tests.rescuer.conftest import MakeFleet
from tests.support.wait import until


def test_a_frozen_worker_is_lost_and_its_result_corrects_that(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(silent_seconds=12)
    frozen = fleet.worker("w1", config={"broker_heartbeat": 2})
    held = fleet.started("held")

    fleet.freeze(frozen)
    fleet.worker("w2")

    assert fleet.rescue_lost(held) == "worker died"
    assert fleet.run(held)["status"] == "lost"
    fleet.thaw(frozen)
    fleet.let_end("held")
    until(lambda: fleet.run(held)["status"] == "eventful", 30)
    assert fleet.verdict(held) == "worker died"


@pytest.mark.trial
def test_a_frozen_solo_worker_stays_undecided_until_its_result(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(silent_seconds=8)
    frozen = fleet.worker("w1", pool="solo")
    held = fleet.begun("held")

    fleet.freeze(frozen)
    fleet.untouched(held)
    undecided = fleet.undecided()
    fleet.thaw(frozen)
    fleet.let_end("held")

    assert undecided[fleet.run(held)["id"]] == ("3", "w1@test may have the message and does not answer")
    assert fleet.end(held)["status"] == "eventful"
    assert fleet.verdicts() == []


@pytest.mark.trial
def test_a_frozen_solo_worker_that_the_broker_gave_up_loses_nothing(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(silent_seconds=8)
    frozen = fleet.worker("w1", pool="solo", config={"broker_heartbeat": 2})
    held = fleet.begun("held")

    fleet.freeze(frozen)
    fleet.queued()  # solo acknowledges after the task: the message is back
    fleet.untouched(held)
    fleet.thaw(frozen)
    fleet.let_end("held")

    assert fleet.end(held)["status"] == "eventful"
    assert fleet.verdicts() == []
