"""Workers that die or are told to end: their started runs are lost and due again, all others are untouched."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.rescuer.conftest import MakeFleet
from tests.support.fleet import Fleet
from tests.support.wait import until

ONE_RESERVED = {"worker_prefetch_multiplier": 1}
LATE_ACKS = {"task_acks_late": True}


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


def test_a_warm_shutdown_with_a_running_task_loses_nothing(fleet: Fleet) -> None:
    worker = fleet.worker("w1")
    held = fleet.started("held")

    worker.kill("SIGTERM")
    until(lambda: any(life.is_leaving for life in fleet.lives()), 30)
    fleet.untouched(held)
    fleet.let_end("held")

    assert fleet.end(held)["status"] == "eventful"
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


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_a_worker_killed_and_back_under_its_name_loses_its_old_run_only(fleet: Fleet, stock: bool) -> None:
    worker = fleet.worker("w1", stock=stock)
    old = fleet.started("old")

    worker.kill()
    worker = fleet.worker("w1", stock=stock)
    new = fleet.started("new")

    assert fleet.rescue_lost(old) == "worker died"
    fleet.untouched(new)
    fleet.let_end("old", "new")
    assert fleet.end(new)["status"] == "eventful"
    assert len(fleet.runs(new)) == 1


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
