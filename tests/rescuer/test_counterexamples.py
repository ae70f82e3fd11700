"""What the models found against weaker rules, and what they accept, staged: docs/spec/README.md says which is which.

The tests took, in their order, on two loaded cores: 13 s, 20 s, 20 s, 19 s, 43 s, 15 s, 20 s, 9 s (all trials).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from swh_sched_runner.services.rescuer import rescuer
from swh_sched_runner.services.rescuer.marks import MarkSender
from tests.rescuer.conftest import Listening, MakeFleet
from tests.support.fleet import BEATS, LIMITS, ONE_RESERVED
from tests.support.processes.workers import StartWorker
from tests.support.servers.proxy import Proxy
from tests.support.wait import until

AWAY = LIMITS["away_seconds"]


def before_the_marks(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> list[object]:
    """Do something once between the last answers of the workers and the first mark; the list is empty until then."""
    passes = MarkSender.pass_through
    done: list[object] = []

    def pass_through(sender: MarkSender, *given: Any) -> str | None:
        if not done:
            done.append(meanwhile())
        return passes(sender, *given)

    monkeypatch.setattr(MarkSender, "pass_through", pass_through)
    return done


@pytest.mark.trial
def test_nothing_is_judged_while_the_listener_is_behind(
    make_fleet: MakeFleet, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescuer, "MARK_SECONDS", 2.0)
    fleet = make_fleet()
    fleet.worker("w1")
    held = fleet.started("held")

    listening.flows.clear()
    fleet.let_end("held")
    run = fleet.run(held)["id"]
    fleet.rescue_until(lambda: run in fleet.undecided(), 30, held, what="no mark passes")
    reason = fleet.undecided()[run]
    listening.flows.set()

    assert reason == ("5", "no mark came back from the event queue within 2 s: is a listener running?")
    assert fleet.end(held)["status"] == "eventful"
    assert fleet.verdicts() == []


@pytest.mark.trial
def test_a_verdict_is_void_if_a_worker_of_the_queue_came_back_meanwhile(
    make_fleet: MakeFleet, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(worker_url=proxy.url)
    fleet.worker("w1", config=ONE_RESERVED)
    fleet.started("held")
    fleet.received("reserved")
    [task] = fleet.create("purged")
    fleet.purge()
    online = fleet.lives()[0].online

    def come_back() -> None:
        proxy.cut()
        until(lambda: fleet.lives()[0].online != online, 30, what="the worker is back")

    came_back = before_the_marks(monkeypatch, come_back)
    fleet.rescue_until(lambda: came_back, 60, task, what="the worker comes back")

    assert fleet.rescue_lost(task) == "never delivered"
    assert fleet.verdicts() == ["never delivered"]


@pytest.mark.trial
def test_a_message_that_went_back_unheard_is_found_though_its_worker_died(
    make_fleet: MakeFleet, listening: Listening
) -> None:
    fleet = make_fleet()
    first = fleet.worker("w1", queue="retry")
    listening.deaf_to = frozenset({"task-retried"})
    task = fleet.create_other("retry", 1, 8.0)
    until(lambda: fleet.run(task)["started"] is not None, 30)
    listening.deaf_to |= {"task-received"}
    until(lambda: listening.dropped >= 1, 30)

    first.kill()
    fleet.queued("retry")
    fleet.untouched(task, seconds=2 * AWAY)
    fleet.worker("w2", queue="retry")

    assert fleet.end(task)["status"] == "eventful"
    assert len(fleet.runs(task)) == 1
    assert fleet.verdicts() == []


# What the rules accept: a live execution is judged lost, and its result corrects that.


@pytest.mark.trial
def test_cut_off_for_longer_than_rule_2b_waits(make_fleet: MakeFleet, proxy: Proxy) -> None:
    fleet = make_fleet(worker_url=proxy.url)
    fleet.worker("w1")
    held = fleet.started("held")
    fleet.rescue()

    proxy.silence(new_ones=True)
    proxy.cut()
    verdict = fleet.rescue_lost(held)
    proxy.speak()
    fleet.let_end("held")

    assert verdict == "worker died"
    until(lambda: fleet.run(held)["status"] == "eventful", 60)


@pytest.mark.trial
def test_the_name_is_taken_while_its_worker_is_cut_off(
    make_fleet: MakeFleet, proxy: Proxy, start_worker: StartWorker, rabbitmq_url: str
) -> None:
    fleet = make_fleet(worker_url=proxy.url, away_seconds=100)
    fleet.worker("w1")
    held = fleet.started("held")

    proxy.silence(new_ones=True)
    proxy.cut()
    start_worker(rabbitmq_url, ["another"], name="w1", concurrency=1, options=BEATS)
    verdict = fleet.rescue_lost(held)
    proxy.speak()
    fleet.let_end("held")

    assert verdict == "worker died"
    until(lambda: fleet.run(held)["status"] == "eventful", 60)


@pytest.mark.trial
def test_leaving_for_longer_than_rule_2c_waits(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(leaving_seconds=2)
    worker = fleet.worker("w1")
    held = fleet.started("held")

    worker.kill("SIGTERM")
    until(lambda: any(life.is_leaving for life in fleet.lives()), 30)
    verdict = fleet.rescue_lost(held)
    fleet.let_end("held")

    assert verdict == "left and not returned"
    until(lambda: fleet.run(held)["status"] == "eventful", 30)


@pytest.mark.trial
def test_nobody_heard_that_a_worker_is_leaving(make_fleet: MakeFleet, listening: Listening) -> None:
    fleet = make_fleet()
    worker = fleet.worker("w1")
    held = fleet.started("held")
    fleet.rescue()

    listening.deaf_to = frozenset({"worker-offline"})
    worker.kill("SIGTERM")
    verdict = fleet.rescue_lost(held)
    fleet.let_end("held")

    assert verdict == "worker died"
    until(lambda: fleet.run(held)["status"] == "eventful", 30)


@pytest.mark.trial
def test_an_end_stays_in_a_worker_that_answers(make_fleet: MakeFleet, proxy: Proxy) -> None:
    fleet = make_fleet(worker_url=proxy.url)
    kept = fleet.file("kept")
    fleet.worker("w1", environment={"TASKS_MUTE": str(kept)})
    held = fleet.started("held")

    kept.touch()
    fleet.let_end("held")
    verdict = fleet.rescue_lost(held)
    kept.unlink()
    proxy.cut()

    assert verdict == "event lost"
    until(lambda: fleet.run(held)["status"] == "eventful", 30)
