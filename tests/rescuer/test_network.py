"""Workers that lose the broker, or that can't answer while they work: nothing of theirs is lost.

The tests took, in their order, on two loaded cores: 28 s, 104 s, 96 s (trials), 45 s, 38 s.
"""

from __future__ import annotations

import pytest

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


def _executions(worker: WorkerProcess) -> int:
    return len(worker.executions())
