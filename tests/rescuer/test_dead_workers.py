"""Workers that are killed: their started runs are lost and due again, all others are untouched.

The tests took, in their order, on two loaded cores: 19 s, 23 s, 22 s, 42 s.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.fleet import LATE_ACKS, ONE_RESERVED, Fleet
from tests.support.wait import until


def test_the_started_run_of_a_killed_worker_is_lost_and_due_again(fleet: Fleet) -> None:
    first = fleet.worker("w1")
    held = fleet.started("held")
    waiting = fleet.received("a", "b")

    first.kill()
    fleet.let_end("held", "a", "b")
    second = fleet.worker("w2")

    assert fleet.rescue_lost(held) == "worker died"
    until(lambda: [run["status"] for run in fleet.runs(held)] == ["lost", "eventful"], 30)
    ended = [fleet.end(task) for task in waiting]
    assert [run["status"] for run in ended] == ["eventful", "eventful"]
    assert [len(fleet.runs(task)) for task in waiting] == [1, 1]
    executed = Counter(task_id for task_id, _ in second.executions())
    assert executed == Counter(run["backend_id"] for run in (fleet.runs(held)[1], *ended))
    assert fleet.verdicts() == ["worker died"]


def test_the_same_is_found_while_the_queue_is_never_empty(fleet: Fleet) -> None:
    first = fleet.worker("w1", config=ONE_RESERVED)
    held = fleet.started("held")
    fleet.worker("w2", config=ONE_RESERVED)
    waiting = fleet.create(*"abcdef")
    fleet.queued()

    first.kill()
    assert fleet.rescue_lost(held) == "worker died"
    fleet.queued()
    fleet.let_end("held", *"abcdef")

    until(lambda: [run["status"] for run in fleet.runs(held)] == ["lost", "eventful"], 30)
    ended = [fleet.end(task) for task in waiting]
    assert [(run["status"], run["metadata"]["executions"]) for run in ended] == [("eventful", 1)] * 6
    assert fleet.verdicts() == ["worker died"]


def test_a_run_that_is_delivered_again_keeps_its_id_and_its_end(fleet: Fleet) -> None:
    first = fleet.worker("w1", config=LATE_ACKS)
    held = fleet.started("held")

    first.kill()
    second = fleet.worker("w2", config=LATE_ACKS)
    until(second.executions, 30)
    fleet.untouched(held)
    fleet.let_end("held")

    assert fleet.end(held)["status"] == "eventful"
    assert len(fleet.runs(held)) == 1
    assert [task_id for task_id, _ in second.executions()] == [fleet.run(held)["backend_id"]]
    assert fleet.verdicts() == []


@pytest.mark.trial
@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_a_worker_killed_and_back_under_its_name_loses_its_old_run_only(fleet: Fleet, stock: bool) -> None:
    worker = fleet.worker("w1", stock=stock)
    old = fleet.started("old")

    worker.kill()
    worker = fleet.worker("w1", stock=stock)
    new = fleet.started("new")

    fleet.rescue_until(lambda: fleet.verdict(old), 90, new, what="a verdict")
    assert fleet.verdicts() == ["worker died"]
    fleet.let_end("old", "new")
    assert fleet.end(new)["status"] == "eventful"
    assert len(fleet.runs(new)) == 1
