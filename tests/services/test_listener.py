"""The listener: events become starts and ends of runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import structlog
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.broker.celery.app import connect
from swh_sched_runner.broker.celery.events import TaskFailed, TaskReceived, TaskResult, TaskStarted, TaskSucceeded
from swh_sched_runner.broker.factory import event_queue_name, open_consumer
from swh_sched_runner.config import BrokerSettings, ListenerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import DatabaseUnavailable
from swh_sched_runner.model import TaskRun
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.listener.merge import fold
from swh_sched_runner.services.service import Heartbeat
from tests.support.samples import NOW, a_type, run_of_a_task

Emit = Callable[..., None]


@contextmanager
def raw(app: Celery, broker: BrokerSettings) -> Iterator[Callable[[bytes], None]]:
    """Puts bytes into the event queue."""
    connection: Connection
    # With confirms: without, a quorum queue may lose the last ones when the connection is closed at once.
    with connect(app, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(auto_declare=False)

        def send(body: bytes) -> None:
            producer.publish(
                body,
                exchange="",
                routing_key=event_queue_name(app, broker),
                content_type="application/json",
                content_encoding="utf-8",
            )

        yield send


def listen(listener: Listener, rounds: int = 50) -> None:
    """Until two rounds in a row brought nothing."""
    quiet = 0
    for _ in range(rounds):
        quiet = 0 if listener.run_once(Heartbeat()) else quiet + 1
        if quiet == 2:
            return
    raise AssertionError("the events never end")


def run_named(backend: SchedulerBackend, backend_id: str) -> TaskRun:
    tasks = [task["id"] for task in backend.search_tasks()]
    return next(run for run in backend.get_task_runs(tasks) if run["backend_id"] == backend_id)


def aside(database: Database) -> list[tuple[str, bytes]]:
    with database.engine.connect() as conn:
        rows = conn.exec_driver_sql("select reason, body from rejected_event order by id")
        return [(reason, bytes(body)) for reason, body in rows]


def test_a_run_is_started_and_ended_by_its_events(backend: SchedulerBackend, listener: Listener, emit: Emit) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, "run-1")

    emit("task-received", "run-1", name="tests.load-git", args="[]", kwargs="{}", retries=0)
    emit("task-started", "run-1")
    listen(listener)
    started = run_named(backend, "run-1")
    emit("task-result", "run-1", result={"status": "success", "eventful": False})
    emit("task-succeeded", "run-1", result="...", runtime=0.1)
    listen(listener)
    ended = run_named(backend, "run-1")

    assert (started["status"], started["metadata"]["worker"]) == ("started", "w1@test")
    assert ended["status"] == "uneventful"
    assert ended["started"] is not None
    assert ended["ended"] is not None
    assert ended["started"] <= ended["ended"]
    assert ended["metadata"]["attempts"] == 1
    assert ended["metadata"]["result"] == {"status": "success", "eventful": False}
    assert backend.get_tasks([task["id"]])[0]["current_interval"] == 2 * a_type()["default_interval"]  # type: ignore[operator]


def test_debug_explains_what_became_of_each_event(
    backend: SchedulerBackend, listener: Listener, emit: Emit, caplog: pytest.LogCaptureFixture
) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend, "run-1")
    emit("task-started", "run-1")
    emit("task-started", "somebody-else's")

    with caplog.at_level(logging.DEBUG, "swh_sched_runner"), structlog.testing.capture_logs() as lines:
        listen(listener)

    told = {(line["run"], line["kind"], line["fate"]) for line in lines if line["event"] == "event of a run"}
    assert told == {("run-1", "task-started", "recorded"), ("somebody-else's", "task-started", "foreign")}


@pytest.mark.parametrize(
    ("kind", "fields", "status"),
    [
        ("task-failed", {"exception": "ValueError('x')", "traceback": "Traceback …\nValueError: x\n"}, "failed"),
        ("task-revoked", {"terminated": True, "signum": 15, "expired": False}, "failed"),
        ("task-rejected", {"requeue": False}, "failed"),
        ("task-result", {"result": {"status": "permfailed", "error": "gone"}}, "permfailed"),
        ("task-result", {"result": 0}, "uneventful"),
        ("task-result", {"result": [1]}, "eventful"),
        ("task-succeeded", {"result": "'x'", "runtime": 1.0}, "eventful"),
    ],
)
def test_each_kind_of_end_ends_the_run(
    backend: SchedulerBackend, listener: Listener, emit: Emit, kind: str, fields: dict[str, Any], status: str
) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend, "run-1")

    emit(kind, "run-1", **fields)
    listen(listener)

    assert run_named(backend, "run-1")["status"] == status


def test_foreign_and_hostile_events_never_stop_the_stream(
    backend: SchedulerBackend, listener: Listener, emit: Emit, app: Celery, broker: BrokerSettings, database: Database
) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend, "run-1")

    with raw(app, broker) as send:
        for body in (b"\xff\xfe", b"{}", b"[[", b"[" * 1000 + b"]" * 1000, b'{"type": "task-started", "uuid": 5}'):
            send(body)
        emit("task-started", "nobody's")
        emit("task-failed", "run-1", exception="nul \0 and \ud800 within", traceback="x")
    listen(listener)

    run = run_named(backend, "run-1")
    assert run["status"] == "failed"
    assert len(aside(database)) == 5
    assert all(reason for reason, _ in aside(database))
    assert aside(database)[0][1] == b"\xff\xfe"


def test_what_the_database_refuses_is_rejected_and_the_rest_is_recorded(
    backend: SchedulerBackend, listener: Listener, emit: Emit, database: Database
) -> None:
    backend.create_task_type(a_type())
    for number in range(5):
        run_of_a_task(backend, f"run-{number}", number=number)
    # A rule that somebody added to the table stands for whatever PostgreSQL may refuse one day.
    with database.engine.begin() as conn:
        conn.exec_driver_sql("alter table task_run add check (metadata ->> 'error' is distinct from 'poison')")

    for number in range(5):
        error = "poison" if number == 2 else "plain"
        emit("task-result", f"run-{number}", result={"status": "failed", "error": error})
    listen(listener)

    statuses = [run_named(backend, f"run-{number}")["status"] for number in range(5)]
    assert statuses == ["failed", "failed", "scheduled", "failed", "failed"]
    [(reason, body)] = aside(database)
    assert "check constraint" in reason
    assert b"run-2" in body


def test_events_that_were_not_committed_come_again(
    backend: SchedulerBackend, database: Database, dispatch: Dispatch, app: Celery, broker: BrokerSettings
) -> None:
    class Away(Dispatch):
        def record_events(self, *_: Any) -> Any:
            raise DatabaseUnavailable(reason="on purpose")

        def trim_rejected_events(self, *_: Any) -> int:
            return 0

    backend.create_task_type(a_type())
    run_of_a_task(backend, "run-1")
    settings = ListenerSettings(batch_size=10, flush_seconds=0.2, prefetch=20)
    consumer = partial(open_consumer, app, broker, 20)
    failing = Listener(Away(database), consumer, settings)
    with connect(app) as connection, app.events.Dispatcher(connection, hostname="w1@test", enabled=True) as dispatcher:
        dispatcher.send("task-failed", uuid="run-1", exception="x", traceback="x")

    def listen_until_it_fails() -> None:
        while True:
            failing.run_once(Heartbeat())

    with pytest.raises(DatabaseUnavailable):
        listen_until_it_fails()
    failing.close()
    healthy = Listener(dispatch, consumer, settings)
    listen(healthy)
    healthy.close()

    assert run_named(backend, "run-1")["status"] == "failed"


def an_event(cls: type[Any], at: float, **fields: Any) -> Any:
    return cls(uuid="run-1", timestamp=at, hostname="w1@test", pid=7, **fields)


AT = time.mktime(NOW.timetuple())


@given(st.permutations(["received", "started", "again", "result", "succeeded"]), st.integers(0, 4))
def test_events_fold_to_one_change_whatever_their_order(order: list[str], repeated: int) -> None:
    events = {
        "received": an_event(TaskReceived, AT, name="n", retries=0),
        "started": an_event(TaskStarted, AT + 1),
        "again": an_event(TaskStarted, AT + 2),
        "result": an_event(TaskResult, AT + 3, result={"status": "uneventful"}),
        "succeeded": an_event(TaskSucceeded, AT + 4, runtime=1.0),
    }

    [change] = fold([events[name] for name in [*order, order[repeated]]])
    [expected] = fold(list(events.values()))

    assert isinstance(change, RunChange)
    assert change == expected
    assert (change.status, change.attempts) == ("uneventful", 1)


@given(st.permutations([AT + 1, AT + 2, AT + 3]))
def test_of_equal_evidence_the_first_end_counts_whatever_the_order(order: list[float]) -> None:
    [change] = fold([an_event(TaskFailed, at, exception=f"error at {at}", traceback=None) for at in order])

    assert change.ended is not None
    assert change.ended.timestamp() == AT + 1
    assert change.end_noted == {"error": f"error at {AT + 1}"}
