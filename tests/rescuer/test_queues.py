"""Messages that are nowhere, and messages that somebody holds.

The tests took, in their order, on two loaded cores: 7 s, 7 s, 10 s, 20 s, 26 s.
"""

from __future__ import annotations

import pytest
from kombu import Connection

from tests.support.fleet import QUEUE, Fleet


def test_a_run_whose_queue_was_purged_was_never_delivered(fleet: Fleet) -> None:
    [task] = fleet.create("purged")
    fleet.purge()

    assert fleet.rescue_lost(task) == "never delivered"
    assert fleet.run(task)["status"] == "lost"


def test_a_run_whose_queue_was_deleted_was_never_delivered(fleet: Fleet, rabbitmq_url: str) -> None:
    [task] = fleet.create("deleted")
    fleet.queued()

    with Connection(rabbitmq_url) as connection:
        connection.default_channel.queue_delete(QUEUE)

    assert fleet.rescue_lost(task) == "never delivered"


def test_purged_beside_a_living_worker_a_run_was_never_delivered(fleet: Fleet) -> None:
    fleet.worker("w1", config={"worker_prefetch_multiplier": 1})
    held = fleet.started("held")
    reserved = fleet.received("reserved")
    [task] = fleet.create("purged")
    fleet.purge()

    assert fleet.rescue_lost(task) == "never delivered"
    fleet.let_end("held", "reserved")
    assert [fleet.end(each)["status"] for each in (held, *reserved)] == ["eventful", "eventful"]
    assert fleet.verdicts() == ["never delivered"]


def test_a_run_whose_message_a_foreign_consumer_holds_is_untouched(fleet: Fleet, rabbitmq_url: str) -> None:
    [task] = fleet.create("held")
    fleet.queued()

    with Connection(rabbitmq_url) as connection, connection.channel() as channel:
        channel.basic_consume(QUEUE, callback=lambda message: None)
        fleet.untouched(task)

    assert fleet.verdicts() == []


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.trial)])
def test_messages_that_wait_in_a_queue_and_in_a_worker_are_untouched(fleet: Fleet, pool: str) -> None:
    fleet.worker("w1", pool=pool, config={"worker_prefetch_multiplier": 1})
    held = fleet.started("held")
    tasks = [held, *fleet.received("received"), *fleet.create("a", "b")]
    fleet.queued()

    fleet.untouched(*tasks)
    fleet.let_end("held", "received", "a", "b")

    assert [fleet.end(task)["status"] for task in tasks] == ["eventful"] * 4
    assert [fleet.run(task)["metadata"]["executions"] for task in tasks] == [1] * 4
    assert fleet.verdicts() == []
