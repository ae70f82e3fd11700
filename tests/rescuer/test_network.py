"""Workers that lose the broker, or that can't answer while they work: nothing of theirs is lost.

The tests took, in their order, on two loaded cores: 28 s, 104 s, 96 s, 45 s, 45 s, 23 s (trials).
"""

from __future__ import annotations

from typing import Any

import pytest

from swh_sched_runner.services.rescuer.look import Look, Looked
from tests.rescuer.conftest import MakeFleet
from tests.support.processes.workers import WorkerProcess
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQ
from tests.support.wait import until


@pytest.mark.trial
def test_a_connection_that_is_cut_loses_nothing(make_fleet: MakeFleet, proxy: Proxy) -> None:
    fleet = make_fleet(worker_url=proxy.url)
    fleet.worker("w1")
    tasks = [fleet.started("held"), *fleet.received("received")]

    proxy.cut()
    fleet.untouched(*tasks)
    fleet.let_end("held", "received")

    assert [fleet.end(task)["status"] for task in tasks] == ["eventful", "eventful"]
    assert fleet.verdicts() == []


@pytest.mark.trial
@pytest.mark.timeout(300)
@pytest.mark.parametrize("cut", [False, True], ids=["half-open", "cut"])
def test_a_worker_cut_off_for_25_seconds_loses_nothing(make_fleet: MakeFleet, proxy: Proxy, cut: bool) -> None:
    fleet = make_fleet(worker_url=proxy.url, away_seconds=60)  # the default: it pauses up to 30 s between attempts
    worker = fleet.worker("w1", config={"broker_heartbeat": 4})
    held = fleet.started("held")

    proxy.silence(new_ones=True)
    if cut:
        proxy.cut()
    fleet.rescue_for(25, held)
    assert not fleet.is_connected(worker)
    proxy.speak()
    fleet.rescue_for(50, held)
    fleet.untouched(held)
    fleet.let_end("held")

    assert fleet.end(held)["status"] == "eventful"
    assert fleet.verdicts() == []


@pytest.mark.trial
def test_a_broker_that_is_restarted_loses_nothing(own_rabbitmq: RabbitMQ, make_fleet: MakeFleet) -> None:
    fleet = make_fleet(own_rabbitmq.url())
    fleet.worker("w1")
    tasks = [fleet.started("held"), *fleet.received("received")]
    fleet.rescue_for(2, *tasks)

    own_rabbitmq.kill()
    fleet.rescue_for(2, *tasks)
    own_rabbitmq.start()
    fleet.untouched(*tasks)
    fleet.let_end("held", "received")

    assert [fleet.end(task)["status"] for task in tasks] == ["eventful", "eventful"]
    assert fleet.verdicts() == []


@pytest.mark.trial
def test_a_solo_worker_busy_for_six_broker_heartbeats_loses_nothing(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(silent_seconds=5)
    worker = fleet.worker("w1", pool="solo", config={"broker_heartbeat": 2})
    held = fleet.begun("held")

    fleet.untouched(held)  # more than six heartbeats; RabbitMQ gave the worker up meanwhile
    assert not fleet.is_connected(worker)
    fleet.let_end("held")

    assert fleet.end(held)["status"] == "eventful"
    until(lambda: _executions(worker) == 2, 60)  # its message comes back after its success
    fleet.untouched()
    assert fleet.run(held)["status"] == "eventful"
    assert fleet.verdicts() == []


@pytest.mark.trial
def test_a_worker_that_answers_and_is_cut_off_before_it_has_sent_its_events_loses_nothing(
    make_fleet: MakeFleet, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(worker_url=proxy.url, away_seconds=60)
    kept = fleet.file("kept")
    worker = fleet.worker("w1", environment={"TASKS_MUTE": str(kept)})
    held = fleet.started("held")
    last_answers: list[Looked] = []

    def look_and_cut_off(look: Look, *given: Any) -> Looked:
        """The worker says that it has not got the run any more; then its network is gone."""
        looked = look_at(look, *given)
        if looked.gone and not last_answers:
            last_answers.append(looked)
            proxy.silence(new_ones=True)
            proxy.cut()
        return looked

    look_at = Look.run
    monkeypatch.setattr(Look, "run", look_and_cut_off)
    kept.touch()
    fleet.let_end("held")
    fleet.rescue_until(lambda: last_answers, 60, held, what="the worker answers")
    undecided = fleet.undecided()
    fleet.rescue_for(5, held)
    assert not fleet.is_connected(worker)
    kept.unlink()
    proxy.speak()

    assert undecided == {fleet.run(held)["id"]: ("5", "w1@test may have the message and did not answer again")}
    assert fleet.end(held, 60)["status"] == "eventful"
    assert fleet.verdicts() == []


def _executions(worker: WorkerProcess) -> int:
    return len(worker.executions())
