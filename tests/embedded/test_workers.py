"""The tests' own workers: real ones, on both brokers, that can be killed and looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.support.processes import workers
from tests.support.processes.workers import StartWorker
from tests.support.wait import until

BROKERS = pytest.mark.parametrize("broker", ["rabbitmq_url", "valkey_url"])


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, broker: str) -> str:
    return str(request.getfixturevalue(broker))


def sender(broker_url: str) -> Celery:
    return Celery("sender", broker=broker_url, set_as_current=False)


def send(broker_url: str, name: str, *args: Any) -> str:
    with sender(broker_url) as app:
        return str(app.send_task(name, args=args, queue="q").id)


@BROKERS
def test_a_worker_executes_what_is_sent(broker_url: str, start_worker: StartWorker) -> None:
    worker = start_worker(broker_url, ["q"])

    sent = {send(broker_url, name) for name in ("echo", "stock_echo", "fail")}

    until(lambda: len(worker.executions()) == 3)
    assert {task_id for task_id, _ in worker.executions()} == sent


@BROKERS
def test_a_killed_worker_goes_on_after_its_restart(broker_url: str, start_worker: StartWorker, tmp_path: Path) -> None:
    node = workers.node(start_worker(broker_url, ["q"], concurrency=1), sender(broker_url))
    blocked = send(broker_url, "wait", str(tmp_path / "never"))
    until((tmp_path / "never.started").exists)

    node.kill()
    killed = node.container.status
    waiting = send(broker_url, "echo")
    (tmp_path / "never").touch()
    node.restart()

    assert killed == "exited"
    until(lambda: (waiting, "echo") in node.container.executions())
    assert (blocked, "wait") in node.container.executions()


def test_workers_end_with_the_test_that_started_them(valkey_url: str, start_worker: StartWorker) -> None:
    worker = start_worker(valkey_url, ["q"], name="known")

    assert worker.hostname == "known@test"
    assert len(worker.children()) >= 2
    worker.stop()
    assert worker.status == "exited"
