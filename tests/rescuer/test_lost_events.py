"""Ends that a living worker reported and nobody recorded, or did not report at all.

The tests took, in their order, on two loaded cores: 10 s, 6 s, 10 s.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from swh_sched_runner.broker.factory import open_consumer
from swh_sched_runner.broker.interface import Delivery
from tests.rescuer.conftest import MakeFleet
from tests.support.fleet import Fleet
from tests.support.wait import until

ENDS = frozenset({"task-result", "task-succeeded", "task-failed"})


class Dropping:
    """A consumer that drops the events that tell of an end, on their way to the listener."""

    dropped = 0

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def receive(self, *limits: Any) -> list[Delivery]:
        return [self._filtered(delivery) for delivery in self._consumer.receive(*limits)]

    def _filtered(self, delivery: Delivery) -> Delivery:
        told = json.loads(delivery.body)
        if isinstance(told, dict) and "type" not in told:
            return delivery
        events = told if isinstance(told, list) else [told]
        kept = [event for event in events if event["type"] not in ENDS]
        Dropping.dropped += len(events) - len(kept)
        if len(kept) == len(events):
            return delivery
        body = json.dumps(kept).encode()
        return msgspec.structs.replace(delivery, body=body, size=len(body))


@pytest.fixture
def _drops_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "swh_sched_runner.cli.services.open_consumer", lambda *given, **named: Dropping(open_consumer(*given, **named))
    )
    monkeypatch.setattr(Dropping, "dropped", 0)


@pytest.mark.usefixtures("_drops_ends")
def test_a_run_whose_end_was_dropped_beside_a_living_worker_is_lost(fleet: Fleet) -> None:
    fleet.worker("w1", concurrency=2)
    held, running = fleet.started("held"), fleet.started("running")

    fleet.let_end("held")
    until(lambda: Dropping.dropped == 2, 30)

    assert fleet.rescue_lost(held) == "event lost"
    assert (fleet.run(held)["status"], fleet.run(running)["status"]) == ("lost", "started")


@pytest.mark.usefixtures("_drops_ends")
def test_the_outcome_of_a_lost_event_is_recovered_from_the_result_backend(
    make_fleet: MakeFleet, valkey_url: str
) -> None:
    fleet = make_fleet(result_backend=valkey_url)
    fleet.worker("w1", config={"result_backend": valkey_url})
    held = fleet.started("held")

    fleet.let_end("held")
    until(lambda: Dropping.dropped == 2, 30)

    assert fleet.rescue_lost(held) == "event lost, outcome recovered"
    assert fleet.run(held)["status"] == "eventful"
    assert len(fleet.runs(held)) == 1


@pytest.mark.parametrize(("name", "pool"), [("ignore", "prefork"), ("exhaust", "threads")])
def test_a_task_that_ends_without_an_event_is_lost(fleet: Fleet, name: str, pool: str) -> None:
    fleet.worker("w1", queue=name, pool=pool)
    task = fleet.create_other(name)
    until(lambda: fleet.run(task)["started"] is not None, 30)

    assert fleet.rescue_lost(task) == "event lost"
