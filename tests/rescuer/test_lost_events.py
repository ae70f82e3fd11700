"""Ends that a living worker reported and nobody recorded, or did not report at all.

The tests took, in their order, on two loaded cores: 10 s, 6 s (Redis), 7 s, 6 s, 10 s.
"""

from __future__ import annotations

import pytest

from tests.rescuer.conftest import Listening, MakeFleet
from tests.support.fleet import Fleet
from tests.support.wait import until

ENDS = frozenset({"task-result", "task-succeeded", "task-failed"})


@pytest.mark.parametrize("broker", ["rabbitmq_url", "valkey_url"])
def test_a_run_whose_end_was_dropped_beside_a_living_worker_is_lost(
    make_fleet: MakeFleet, listening: Listening, request: pytest.FixtureRequest, broker: str
) -> None:
    listening.deaf_to = ENDS
    fleet = make_fleet(request.getfixturevalue(broker))
    fleet.worker("w1", concurrency=2)
    held, running = fleet.started("held"), fleet.started("running")

    fleet.let_end("held")
    until(lambda: listening.dropped == 2, 30)

    assert fleet.rescue_lost(held) == "event lost"
    assert (fleet.run(held)["status"], fleet.run(running)["status"]) == ("lost", "started")


def test_the_outcome_of_a_lost_event_is_recovered_from_the_result_backend(
    make_fleet: MakeFleet, listening: Listening, valkey_url: str
) -> None:
    listening.deaf_to = ENDS
    fleet = make_fleet(result_backend=valkey_url)
    fleet.worker("w1", config={"result_backend": valkey_url})
    held = fleet.started("held")

    fleet.let_end("held")
    until(lambda: listening.dropped == 2, 30)

    assert fleet.rescue_lost(held) == "event lost, outcome recovered"
    assert fleet.run(held)["status"] == "eventful"
    assert len(fleet.runs(held)) == 1


@pytest.mark.parametrize(("name", "pool"), [("ignore", "prefork"), ("exhaust", "threads")])
def test_a_task_that_ends_without_an_event_is_lost(fleet: Fleet, name: str, pool: str) -> None:
    fleet.worker("w1", queue=name, pool=pool)
    task = fleet.create_other(name)
    until(lambda: fleet.run(task)["started"] is not None, 30)

    assert fleet.rescue_lost(task) == "event lost"
