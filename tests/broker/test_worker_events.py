"""What real workers tell, on every broker: stock ones and those with our base class."""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.celery.events import (
    Event,
    Other,
    TaskReceived,
    TaskResult,
    TaskRetried,
    TaskStarted,
    TaskSucceeded,
    Unreadable,
    WorkerHeartbeat,
    WorkerOffline,
    WorkerOnline,
    parse,
)
from swh_sched_runner.broker.celery.run_outcome import End, Evidence, end_of
from swh_sched_runner.broker.factory import open_consumer
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.worker import SchedulerTask, configure, result_fields
from tests.support.processes.workers import StartWorker
from tests.support.servers.proxy import Proxy
from tests.support.wait import until

WORKER_EVENTS = (WorkerOnline, WorkerOffline, WorkerHeartbeat)
REAL = pytest.mark.parametrize("broker_url", ["rabbitmq_url", "valkey_url"], indirect=True)


class Seen:
    """Events by task, read from the queue until a condition holds."""

    def __init__(self, app: Celery, settings: BrokerSettings) -> None:
        self._consumer = open_consumer(app, settings, 1000)
        self.tasks: dict[str, list[Any]] = defaultdict(list)
        self.workers: list[Event] = []
        self.unreadable: list[Unreadable] = []

    def until(self, condition: Callable[[], bool], timeout_seconds: float = 30) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            assert time.monotonic() < deadline, dict(self.tasks)
            deliveries = self._consumer.receive(100, 0.1)
            for delivery in deliveries:
                for event in parse(delivery.body):
                    self._add(event)
            self._consumer.acknowledge(deliveries)

    def _add(self, event: Event | Unreadable) -> None:
        if isinstance(event, Unreadable):
            self.unreadable.append(event)
        elif isinstance(event, Other | WorkerOnline | WorkerOffline | WorkerHeartbeat):
            self.workers.append(event)
        else:
            self.tasks[event.uuid].append(event)

    def ends(self, task_id: str) -> list[End]:
        return [end for event in self.tasks[task_id] if (end := end_of(event)) is not None]

    def close(self) -> None:
        self._consumer.close()


def best(ends: list[End]) -> tuple[str, Evidence, str | None]:
    end = max(ends, key=lambda end: end.evidence)
    return end.status, end.evidence, end.note.get("error")


def send_expired(app: Celery, queue: str) -> str:
    """Send a task that has expired without the broker noticing, as it does when it waited too long."""
    task_id = str(uuid.uuid4())
    message = app.amqp.as_task_v2(task_id, "echo", expires="2020-01-01T00:00:00+00:00")
    with connect(app) as connection:
        app.amqp.send_task_message(app.amqp.Producer(connection, auto_declare=False), "echo", message, queue=queue)
    return task_id


@REAL
def test_every_way_a_task_can_go_is_understood(
    app: Celery, settings: BrokerSettings, queue: str, start_worker: StartWorker
) -> None:
    seen = Seen(app, settings)
    start_worker(settings.url, [queue])

    def send(name: str, *args: Any, **options: Any) -> str:
        task_id = str(uuid.uuid4())
        app.send_task(name, args, queue=queue, task_id=task_id, **options)
        return task_id

    expected = {
        send("echo", {"status": "success", "eventful": False}): ("uneventful", Evidence.RESULT, None),
        send("echo", {"status": "permfailed", "error": "gone"}): ("permfailed", Evidence.RESULT, "gone"),
        send("stock_echo", {"status": "failed"}): ("eventful", Evidence.SUCCEEDED, None),
        send("unserialisable", ignore_result=True): ("eventful", Evidence.SUCCEEDED, None),
        send("fail", "a reason"): ("failed", Evidence.FAILED, "RuntimeError: a reason"),
        send("retry"): ("eventful", Evidence.RESULT, None),
        send("reject"): ("failed", Evidence.FAILED, "on purpose"),
        send("no_such_task"): ("failed", Evidence.FAILED, "NotRegistered('no_such_task')"),
        send_expired(app, queue): ("failed", Evidence.FAILED, "revoked: expired"),
        send("limited", "/nowhere"): ("failed", Evidence.FAILED, "TimeLimitExceeded"),
    }

    def complete() -> bool:
        ends = {task_id: seen.ends(task_id) for task_id in expected}
        return all(ends.values()) and all(best(ends[task_id])[1] == end[1] for task_id, end in expected.items())

    seen.until(complete)
    for task_id, (status, evidence, error) in expected.items():
        found = best(seen.ends(task_id))
        assert found[:2] == (status, evidence)
        assert error is None or error in (found[2] or ""), found
    kinds = {type(event) for events in seen.tasks.values() for event in events}
    assert {TaskReceived, TaskStarted, TaskResult, TaskSucceeded, TaskRetried} <= kinds
    assert any(isinstance(event, WorkerOnline) for event in seen.workers)
    assert not any(isinstance(event, WorkerHeartbeat) for event in seen.workers)
    assert not seen.unreadable
    now = time.time()
    assert all(now - 60 < event.timestamp < now + 1 for events in seen.tasks.values() for event in events)
    seen.close()


@REAL
def test_a_dead_child_and_a_terminated_task_are_failures(
    app: Celery, settings: BrokerSettings, queue: str, start_worker: StartWorker, tmp_path: Any
) -> None:
    seen = Seen(app, settings)
    worker = start_worker(settings.url, [queue])
    died, terminated = str(uuid.uuid4()), str(uuid.uuid4())
    app.send_task("die", queue=queue, task_id=died)
    app.send_task("wait", [str(tmp_path / "never")], queue=queue, task_id=terminated)
    until((tmp_path / "never.started").exists, 30)

    app.control.revoke(terminated, terminate=True, signal="SIGKILL", destination=[worker.hostname])

    seen.until(lambda: bool(seen.ends(died)) and bool(seen.ends(terminated)))
    assert "WorkerLostError" in (best(seen.ends(died))[2] or "")
    assert {end.note["error"] for end in seen.ends(terminated)} >= {"revoked: terminated by SIGKILL"}
    seen.close()


@REAL
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_other_pools_tell_the_same(
    app: Celery, settings: BrokerSettings, queue: str, start_worker: StartWorker, pool: str
) -> None:
    seen = Seen(app, settings)
    start_worker(settings.url, [queue], pool=pool)
    task_id = str(uuid.uuid4())
    app.send_task("echo", [{"status": "uneventful"}], queue=queue, task_id=task_id)

    seen.until(lambda: {TaskStarted, TaskResult, TaskSucceeded} <= {type(event) for event in seen.tasks[task_id]})

    assert best(seen.ends(task_id)) == ("uneventful", Evidence.RESULT, None)
    seen.close()


@REAL
def test_events_of_a_time_without_a_listener_are_kept(
    app: Celery, settings: BrokerSettings, queue: str, start_worker: StartWorker
) -> None:
    open_consumer(app, settings, 100).close()  # a listener was there once
    worker = start_worker(settings.url, [queue])
    sent = [str(uuid.uuid4()) for _ in range(200)]
    for number, task_id in enumerate(sent):
        app.send_task("echo", [number % 2], queue=queue, task_id=task_id)
    until(lambda: worker.logs().count(" succeeded in ") == 200, 30)  # a worker that is stopped earlier tells less
    worker.stop()

    seen = Seen(app, settings)
    seen.until(lambda: all(len(seen.tasks[task_id]) >= 4 for task_id in sent))

    assert [best(seen.ends(task_id))[0] for task_id in sent] == ["uneventful", "eventful"] * 100
    seen.close()


def test_on_redis_events_are_still_heard_by_those_who_listen_now(
    valkey_url: str, queue: str, start_worker: StartWorker
) -> None:
    app = create_app(BrokerSettings(url=valkey_url))
    heard: list[str] = []
    start_worker(valkey_url, [queue])
    with connect(app) as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: heard.append(event["type"])})
        consumer = receiver.itercapture(limit=None, timeout=None, wakeup=False)
        next(consumer)
        app.send_task("echo", [1], queue=queue)
        until(lambda: (next(consumer), "task-succeeded" in heard)[1], 30)


def test_a_stock_fleet_on_rabbitmq_needs_nothing_of_ours(
    rabbitmq_url: str, queue: str, start_worker: StartWorker
) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    app = create_app(settings)
    seen = Seen(app, settings)
    start_worker(rabbitmq_url, [queue], stock=True)
    good, bad = str(uuid.uuid4()), str(uuid.uuid4())
    app.send_task("echo", [1], queue=queue, task_id=good)
    app.send_task("fail", ["why"], queue=queue, task_id=bad)

    seen.until(lambda: bool(seen.ends(good)) and bool(seen.ends(bad)))

    assert best(seen.ends(good)) == ("eventful", Evidence.SUCCEEDED, None)
    assert best(seen.ends(bad)) == ("failed", Evidence.FAILED, "RuntimeError: why")
    seen.close()


def test_a_task_does_not_fail_when_its_result_can_not_be_reported() -> None:
    app = configure(Celery("here", broker="amqp://127.0.0.1:9", set_as_current=False))
    app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0, "interval_step": 0}

    class Reported(SchedulerTask):
        name = "reported"

        def run(self) -> object:
            return object()

    task = app.register_task(Reported())
    task.push_request(id="1", called_directly=False)

    task.on_success(object(), "1", (), {})
    task.on_success({"status": "eventful"}, "1", (), {})


def test_a_task_called_in_the_process_tells_nothing() -> None:
    app = configure(Celery("here", broker="amqp://127.0.0.1:9", set_as_current=False))

    @app.task
    def here() -> str:
        return "eventful"

    assert here.apply().get() == here() == "eventful"


@pytest.mark.parametrize(
    ("value", "essence"),
    [
        ({"status": "failed", "error": "e" * 70_000, "x": 1}, {"status": "failed", "error": "e" * 1000}),
        ({"status": "success", "eventful": False, "log": "l" * 70_000}, {"status": "success", "eventful": False}),
        ({"log": "l" * 70_000}, True),
        (["l" * 70_000], True),
        ("l" * 70_000, True),
    ],
)
def test_a_long_result_is_cut_down_to_what_decides(value: Any, essence: Any) -> None:
    fields = result_fields(value)
    assert fields["result"] == essence
    assert fields["result_bytes"] > 70_000


def test_configure_makes_any_application_report() -> None:
    app = Celery("fleet", broker="memory://", set_as_current=False)
    stock = app.Task  # somebody looked at it before
    configure(app, "their.events")

    @app.task
    def task() -> None: ...

    assert app.Task is not stock
    assert isinstance(task, SchedulerTask)
    assert app.conf.worker_send_task_events
    assert app.conf.get("swh_sched_runner_event_queue") == "their.events"
    assert app.events.Dispatcher.__mro__[1].__module__ == "swh_sched_runner.worker"


def test_a_heartbeat_that_can_not_be_sent_does_not_hold_its_worker_up(rabbitmq_url: str) -> None:
    proxy = Proxy(rabbitmq_url)
    app = configure(Celery("fleet", broker=proxy.url, set_as_current=False))
    with connect(app) as connection, app.events.Dispatcher(connection, hostname="w1@test", enabled=True) as dispatcher:
        dispatcher.send("worker-heartbeat", retry=True)
        proxy.stop()

        sender = threading.Thread(
            target=dispatcher.send, args=("worker-heartbeat",), kwargs={"retry": True}, daemon=True
        )
        sender.start()
        sender.join(20)

        assert not sender.is_alive()
