"""Which tasks workers say that they have."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import ContentDisallowed

from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.celery.inspection import (
    limits_no_rate,
    listed_ids,
    queried_ids,
    query_tasks,
    revoke,
)
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable
from tests.support.processes.workers import StartWorker
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import free_ports
from tests.support.wait import until


def test_a_worker_tells_what_it_executes_keeps_ready_and_keeps_for_later_and_drops_what_is_revoked(
    app: Celery, broker_url: str, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    # given one task that runs, one that waits for a process, one that waits for its time, and one that has ended
    worker = start_worker(broker_url, [queue], concurrency=1)
    released = tmp_path / "released"
    ended = app.send_task("echo", queue=queue).id
    until(lambda: ended in worker.logs() and "succeeded" in worker.logs())
    active = app.send_task("wait", [str(released)], queue=queue).id
    reserved = app.send_task("echo", queue=queue).id
    scheduled = app.send_task("echo", queue=queue, countdown=600).id
    until(lambda: Path(f"{released}.started").exists() and all(t in worker.logs() for t in (reserved, scheduled)))
    nowhere = [str(uuid.uuid4()) for _ in range(600)]  # more than one question
    # when
    held = query_tasks(app, [worker.hostname, "nobody@test"], [active, *nowhere, ended, reserved, scheduled], 1.0)
    # then
    assert held == {worker.hostname: {active, reserved, scheduled}}
    revoke(app, [*nowhere, reserved])
    until(lambda: worker.logs().count("flagged as revoked") == 2)  # more than one message
    released.touch()
    until(lambda: f"Discarding revoked task: echo[{reserved}]" in worker.logs())


@pytest.mark.parametrize("broker_url", ["rabbitmq_url"], indirect=True)
def test_a_worker_tells_of_a_task_that_it_retries_at_once(
    app: Celery, queue: str, broker_url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    # given a second try that the worker began before it noted the end of the first: then it forgets the id
    worker = start_worker(broker_url, [queue], concurrency=2)
    released = tmp_path / "released"
    task = app.send_task("retry_and_wait", [str(released)], queue=queue).id
    until(lambda: Path(f"{released}.started").exists() and "retry:" in worker.logs())
    # when, then
    assert query_tasks(app, [worker.hostname], [task], 1.0) == {worker.hostname: {task}}
    released.touch()


@pytest.mark.parametrize("broker_url", ["rabbitmq_url"], indirect=True)
def test_a_worker_that_limits_the_rate_of_a_task_tells_nothing(
    app: Celery, broker_url: str, queue: str, start_worker: StartWorker
) -> None:
    # given tasks that wait for a rate, which no question finds
    worker = start_worker(broker_url, [queue])
    assert query_tasks(app, [worker.hostname], ["x"], 1.0) == {worker.hostname: frozenset()}
    app.control.rate_limit("echo", "1/h", destination=[worker.hostname], reply=True, timeout=5)
    sent = [app.send_task("echo", queue=queue).id for _ in range(3)]
    until(lambda: all(f"{task}] received" in worker.logs() for task in sent))

    assert query_tasks(app, [worker.hostname], sent, 1.0) == {}


def test_nobody_is_asked_nothing() -> None:
    [port] = free_ports(1)
    assert query_tasks(create_app(BrokerSettings(url=f"redis://127.0.0.1:{port}/0")), [], ["x"]) == {}


def test_a_broker_that_is_away_is_no_answer(broker_url: str, proxy: Any) -> None:
    between: Proxy = proxy(broker_url)
    app = create_app(BrokerSettings(url=between.url))
    between.stop()
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        query_tasks(app, ["w1@test"], ["x"], 1.0)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("answer", [None, "x", {"error": "no such command"}, [7], ["a", "load [rate_limit=10/m]"]])
def test_limits_that_are_there_or_unknown_are_no_basis(answer: Any) -> None:
    assert not limits_no_rate(answer)


def test_tasks_without_limits_are_told_as_such() -> None:
    assert limits_no_rate([])
    assert limits_no_rate(["echo", "load [exchange=x]"])


@pytest.mark.parametrize("answer", [None, {"error": "x"}, [7], [{"request": {}}], [{"request": {"id": 7}}]])
def test_scheduled_tasks_of_a_wrong_shape_are_no_answer(answer: Any) -> None:
    assert listed_ids(answer) is None


@pytest.mark.parametrize("answer", [None, [], {"error": "x"}, {"a": ["active"]}, {"a": [1, {}]}, {"ok": "x"}])
def test_tasks_of_a_wrong_shape_are_no_answer(answer: Any) -> None:
    assert queried_ids(answer) is None


def test_ids_are_read_from_answers() -> None:
    assert queried_ids({"a": ["active", {"id": "a"}], "b": ["ready", {}]}) == {"a", "b"}
    assert listed_ids([{"eta": "x", "priority": 6, "request": {"id": "a"}}]) == {"a"}


@pytest.mark.parametrize("broker_url", ["rabbitmq_url"], indirect=True)
@pytest.mark.parametrize("error", [ContentDisallowed("pickle"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "?")])
def test_an_answer_that_kombu_can_not_read_ends_the_question_alone(
    app: Celery, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broadcast(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app.control, "broadcast", broadcast)
    with pytest.raises(BrokerUnavailable):
        query_tasks(app, ["w1@test"], ["x"], 10.0)


def test_lists_of_tasks_of_a_wrong_shape_are_no_answer() -> None:
    assert listed_ids([{"id": "a"}, {"id": "b"}]) == {"a", "b"}
    assert [listed_ids(answer) for answer in (None, {}, [1], [{}], [{"id": 1}])] == [None] * 5
