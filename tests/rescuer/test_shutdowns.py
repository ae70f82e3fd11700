"""Workers that are told to end: what they finish counts, what they drop is lost or delivered again.

The tests took, in their order, on two loaded cores: 29 s, 14 s, 23 s, 33 s, 15 s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kombu import Connection

from tests.rescuer.conftest import MakeFleet
from tests.support.fleet import LATE_ACKS, QUEUE, Fleet
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


@pytest.mark.trial
def test_a_hard_time_limit_during_a_warm_shutdown_loses_nothing(fleet: Fleet, rabbitmq_url: str) -> None:
    worker = fleet.worker("w1", concurrency=2, queue=f"{QUEUE},limited", environment={"TASKS_LIMIT": "5"})
    held = fleet.started("held")
    limited = fleet.create_other("limited", str(fleet.file("never")))
    until(lambda: len(worker.executions()) == 2, 30)

    with events(rabbitmq_url) as told:
        worker.kill("SIGTERM")
        until(lambda: "Hard time limit" in worker.logs(), 30)
        assert any(life.is_leaving for life in fleet.lives())
        fleet.untouched(held)
        fleet.let_end("held")
        assert fleet.end(held)["status"] == "eventful"
        assert fleet.end(limited)["status"] == "failed"
        until(lambda: worker.status == "exited", 30)

        failures = [event["uuid"] for event in told() if event["type"] == "task-failed"]
        assert failures == [fleet.run(limited)["backend_id"]] * 2
    assert fleet.verdicts() == []


@contextmanager
def events(broker_url: str) -> Iterator[Callable[[], list[Any]]]:
    """What tells the events of tasks that were sent since."""
    with Connection(broker_url) as connection, connection.channel() as channel:
        queue = channel.queue_declare("", exclusive=True).queue
        channel.queue_bind(queue, "celeryev", "task.#")

        def told() -> list[Any]:
            messages = iter(lambda: channel.basic_get(queue, no_ack=True), None)
            decoded = [json.loads(message.body) for message in messages]
            return [event for body in decoded for event in (body if isinstance(body, list) else [body])]

        yield told


def test_a_run_of_a_worker_killed_while_it_was_leaving_is_lost(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(leaving_seconds=4)
    worker = fleet.worker("w1")
    held = fleet.started("held")

    worker.kill("SIGTERM")
    until(lambda: any(life.is_leaving for life in fleet.lives()), 30)
    worker.kill()

    assert fleet.rescue_lost(held) == "left and not returned"
