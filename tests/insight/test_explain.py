"""Why a task is not running: one answer for each reason, and beside it all that holds as well."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch import ready
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.backend.tasks.lost import Lost
from swh_sched_runner.broker.celery.app import connect, create_app, kind_of
from swh_sched_runner.broker.factory import event_queue_name
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import BrokerUnavailable, UnknownTask
from swh_sched_runner.insight.explain import Explanation, explain_task
from swh_sched_runner.model import Task
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.service import Heartbeat
from tests.support.processes.workers import StartWorker
from tests.support.queues import take
from tests.support.samples import NOW, a_task, a_type
from tests.support.wait import until

QUEUE = "tests.load-git"
PRIORITY_QUEUE = f"save_code_now:{QUEUE}"
PLAIN = TaskGroup("load-git", QUEUE, 100, priority=False)

Why = Callable[[int], Explanation]
MakeRunner = Callable[..., Runner]
Send = Callable[[], None]


both = pytest.mark.parametrize("broker_url", ["rabbitmq_url", "valkey_url"], indirect=True)


@pytest.fixture
def broker_url(request: pytest.FixtureRequest) -> str:
    """RabbitMQ, unless a test says that it holds on Redis too."""
    url: str = request.getfixturevalue(getattr(request, "param", "rabbitmq_url"))
    return url


@pytest.fixture
def send(make_runner: MakeRunner) -> Send:
    """Dispatches what is due, by one runner."""
    runner = make_runner()

    def send() -> None:
        while runner.run_once(Heartbeat()):
            pass

    return send


@pytest.fixture
def why(database: Database, app: Celery, broker: BrokerSettings) -> Why:
    return lambda task_id: explain_task(database, lambda: Queues(app), broker, task_id)


@pytest.fixture
def on_redis(app: Celery) -> bool:
    return kind_of(app) == "redis"


def a_due_task(backend: SchedulerBackend, number: int = 0, **more: object) -> int:
    """A task of a type with a bound of 100."""
    backend.create_task_type(a_type())
    return create(backend, a_task(number, **more))


def create(backend: SchedulerBackend, task: Task) -> int:
    [created] = backend.create_tasks([task])
    return created["id"]


def advice(found: Explanation) -> str:
    assert found.advice is not None
    return found.advice


def codes(found: Explanation) -> list[str]:
    """The reason that answers, then the others."""
    return [found.code, *(reason.code for reason in found.also)]


def run_id(backend: SchedulerBackend, task_id: int) -> str:
    [run] = backend.get_task_runs([task_id])
    return run["backend_id"]


def fill(app: Celery, queue: str, messages: int) -> None:
    with Queues(app) as queues:
        queues.declare(queue)
        for _ in range(messages):
            app.send_task("foreign", queue=queue)
        until(lambda: queues.depth(queue) == messages)


def test_a_completed_task_names_the_run_that_completed_it(
    backend: SchedulerBackend, dispatch: Dispatch, why: Why
) -> None:
    task = a_due_task(backend, policy="oneshot")
    unconfirmed(dispatch)
    [run] = backend.get_task_runs([task])
    backend.end_task_run(run["backend_id"], "eventful", timestamp=NOW)

    found = why(task)

    assert codes(found) == ["completed"]
    assert found.text == f"completed by the end of run {run['id']}: it ended eventful at 2026-03-01 12:00:00 UTC"
    assert found.facts.run is not None
    assert found.facts.run.id == run["id"]


def test_a_disabled_task_names_the_run_whose_end_disabled_it_and_what_that_said(
    backend: SchedulerBackend, dispatch: Dispatch, why: Why
) -> None:
    task = a_due_task(backend)
    unconfirmed(dispatch)
    [run] = backend.get_task_runs([task])
    backend.end_task_run(run["backend_id"], "permfailed", metadata={"error": "gone\nfor good"}, timestamp=NOW)

    found = why(task)

    assert codes(found) == ["disabled"]
    assert found.text == f"disabled by the end of run {run['id']}: it ended permfailed at 2026-03-01 12:00:00 UTC: gone"
    assert f"set_status_tasks([{task}]" in advice(found)


def test_a_task_that_an_operator_disabled_is_not_laid_to_the_run_that_ended_before(
    backend: SchedulerBackend, dispatch: Dispatch, why: Why
) -> None:
    # given a run that ends after an operator's decision
    task = a_due_task(backend)
    unconfirmed(dispatch)
    backend.disable_tasks([task])
    backend.end_task_run(run_id(backend, task), "failed")
    # when
    found = why(task)
    # then
    assert (codes(found), found.text) == (["disabled"], "disabled by an operator, not by the end of a run")


def test_a_task_that_is_not_due_says_when_it_is_and_how_its_last_run_ended(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, why: Why
) -> None:
    task = a_due_task(backend)
    unconfirmed(dispatch, session)
    ended = datetime.now(UTC)
    backend.end_task_run(run_id(backend, task), "failed", metadata={"error": "no route"}, timestamp=ended)

    found = why(task)

    assert codes(found) == ["not_due"]
    assert found.facts.next_run == ended + timedelta(minutes=5)
    assert f"not due until {ended + timedelta(minutes=5):%Y-%m-%d %H:%M:%S} UTC, in " in found.text
    assert f"; its last run {found.facts.run and found.facts.run.id} ended failed at " in found.text
    assert found.text.endswith(": no route")
    assert found.expected_wait is not None
    assert timedelta(minutes=4) < found.expected_wait <= timedelta(minutes=5)


def test_what_lasts_is_told_of_a_task_that_is_not_due_and_what_passes_is_not(
    backend: SchedulerBackend, app: Celery, why: Why
) -> None:
    task = a_due_task(backend, next_run=datetime.now(UTC) + timedelta(days=1))
    backend.set_task_type_limits("load-git", max_queue_length=0, max_in_flight=0)
    backend.pause_task_type("load-git")
    backend.pause_queue(QUEUE)

    assert codes(why(task)) == ["not_due", "type_paused", "queue_paused", "no_runner"]


def test_a_paused_type_says_since_when_by_whom_and_why(
    backend: SchedulerBackend, session: DispatcherSession, why: Why
) -> None:
    task = a_due_task(backend)
    backend.pause_task_type("load-git", by="ops@here", reason="forge is down")

    found = why(task)

    assert codes(found) == ["type_paused"]
    since = found.facts.type_pause and found.facts.type_pause.since
    assert found.text == f"task type load-git is paused since {since:%Y-%m-%d %H:%M:%S} UTC by ops@here: forge is down"
    assert found.advice == "swh-sched-runner task-type resume load-git"


@pytest.mark.parametrize(("priority", "queue"), [(None, QUEUE), ("low", PRIORITY_QUEUE)])
def test_a_paused_queue_holds_the_tasks_that_go_to_it(
    backend: SchedulerBackend, session: DispatcherSession, why: Why, priority: str | None, queue: str
) -> None:
    task = a_due_task(backend, priority=priority)
    other = create(backend, a_task(1, priority="high" if priority is None else None))
    backend.pause_queue(queue, by="ops@here")

    found = why(task)

    assert codes(found) == ["queue_paused"]
    assert found.text.startswith(f"queue {queue} is paused since ")
    assert found.text.endswith(" UTC by ops@here")
    assert found.advice == f"swh-sched-runner queue resume {queue}"
    assert codes(why(other)) == ["ready"]


def test_a_type_that_has_as_many_tasks_in_flight_as_it_may_says_how_many(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, why: Why
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(3))
    unconfirmed(dispatch, session)
    task = create(backend, a_task(9))
    backend.set_task_type_limits("load-git", max_in_flight=4)
    assert codes(why(task)) == ["ready"]
    backend.set_task_type_limits("load-git", max_in_flight=2)

    found = why(task)

    assert codes(found) == ["in_flight_cap"]
    assert found.text.startswith("3/2 tasks of type load-git are in flight: ")


def test_a_rate_limit_says_when_the_task_passes(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, why: Why
) -> None:
    # given a rate of one in a hundred seconds, whose token is used up
    backend.create_task_type(a_type())
    backend.set_task_type_limits("load-git", rate_limit=1)
    first, second = backend.create_tasks([a_task(1), a_task(2)])
    assert codes(why(first["id"])) == ["ready"]
    unconfirmed(dispatch, session)
    assert backend.get_tasks([first["id"]])[0]["status"] == "next_run_scheduled"
    backend.set_task_type_limits("load-git", rate_limit=0.01)
    # when
    found = why(second["id"])
    # then
    assert codes(found) == ["rate_limit"]
    assert found.text.startswith(
        "the rate limit of task type load-git, 0.01 a second, allows 0 tasks now; this task is allowed in"
    )
    assert "in about 1m" in found.text
    assert found.facts.tokens is not None
    assert found.facts.tokens < 0.1


def test_tasks_that_come_before_use_up_the_rate_too(
    backend: SchedulerBackend, session: DispatcherSession, why: Why
) -> None:
    backend.create_task_type(a_type())
    backend.set_task_type_limits("load-git", rate_limit=0.5)
    tasks = backend.create_tasks([a_task(n) for n in range(4)])

    found = why(tasks[3]["id"])

    assert codes(found) == ["rate_limit", "behind"]
    assert "allows 1 task now; 3 tasks due earlier before it; this task is allowed in about 6s" in found.text


def test_a_full_queue_says_how_full_and_how_long_it_is_likely_to_last(
    backend: SchedulerBackend, database: Database, session: DispatcherSession, app: Celery, why: Why
) -> None:
    # given a queue at its bound, from which ten messages a minute are taken, and nine tasks before this one
    backend.create_task_type(a_type(max_queue_length=5))
    tasks = backend.create_tasks([a_task(n) for n in range(10)])
    fill(app, QUEUE, 5)
    database.run(ready.note_published, session.id, QUEUE, 5, 1 / 6)
    # when
    found = why(tasks[9]["id"])
    # then
    assert codes(found) == ["queue_full", "behind"]
    assert found.text == (
        f"queue {QUEUE} is full (5/5), and 9 tasks due earlier before it; it is expected to be sent in about 1m, "
        "if workers keep taking 0.167 messages a second"
    )
    assert found.expected_wait == timedelta(minutes=1)


@pytest.mark.parametrize("rate", [None, 0.0])
def test_a_full_queue_whose_rate_is_not_known_names_no_time(
    backend: SchedulerBackend, database: Database, session: DispatcherSession, app: Celery, why: Why, rate: float | None
) -> None:
    task = a_due_task(backend)
    backend.set_task_type_limits("load-git", max_queue_length=1)
    fill(app, QUEUE, 2)
    database.run(ready.note_published, session.id, QUEUE, 1, rate)

    found = why(task)

    assert codes(found) == ["queue_full"]
    assert found.text == f"queue {QUEUE} is full (2/1); the wait is not known yet"
    assert found.expected_wait is None


def test_a_limit_of_nothing_is_no_queue_that_will_drain(
    backend: SchedulerBackend, database: Database, session: DispatcherSession, why: Why
) -> None:
    task = a_due_task(backend)
    backend.set_task_type_limits("load-git", max_queue_length=0)
    database.run(ready.note_published, session.id, QUEUE, 0, 5.0)

    found = why(task)

    assert codes(found) == ["queue_full"]
    assert (found.text, found.expected_wait) == (f"queue {QUEUE} has max_queue_length 0: nothing is sent to it", None)


def test_a_task_waits_behind_those_that_were_due_before_it(
    backend: SchedulerBackend, database: Database, session: DispatcherSession, app: Celery, why: Why
) -> None:
    # given tasks of the same group, one due later, and some of other groups
    backend.create_task_type(a_type())
    backend.create_task_type(a_type("other", backend_name=QUEUE))
    task = create(backend, a_task(1))
    earlier = [a_task(n, next_run=NOW - timedelta(days=1)) for n in (2, 3)]
    backend.create_tasks([*earlier, a_task(4, next_run=NOW + timedelta(days=1)), a_task(5, priority="high")])
    backend.create_tasks([a_task(6, "other", next_run=NOW - timedelta(days=1))])
    # when
    found = why(task)
    # then
    assert codes(found) == ["behind"]
    assert found.text == "due since 2026-03-01 12:00:00 UTC, waiting behind 2 tasks due earlier"
    # when the capacity is two
    fill(app, QUEUE, 98)
    database.run(ready.note_published, session.id, QUEUE, 98, 0.5)
    assert why(task).text.endswith("more than the capacity of the queue (2); it is expected to be sent in about 2s")


def test_a_task_with_a_priority_waits_behind_higher_ones_and_earlier_ones_of_its_own(
    backend: SchedulerBackend, session: DispatcherSession, why: Why
) -> None:
    task = a_due_task(backend, priority="normal")
    backend.create_tasks(
        [
            *(a_task(n, priority="high", next_run=NOW + timedelta(days=n)) for n in (1, 2, 3)),
            a_task(4, priority="high", next_run=datetime.now(UTC) + timedelta(days=1)),
            a_task(5, priority="normal", next_run=NOW - timedelta(days=1)),
            a_task(6, priority="low", next_run=NOW - timedelta(days=1)),
            a_task(7, next_run=NOW - timedelta(days=1)),
        ]
    )

    found = why(task)

    assert codes(found) == ["behind"]
    assert found.text.endswith("waiting behind 3 tasks of higher priority and 1 task due earlier")
    assert found.facts.queue == PRIORITY_QUEUE


def test_a_task_that_nothing_holds_back_is_ready(
    backend: SchedulerBackend, session: DispatcherSession, why: Why
) -> None:
    found = why(a_due_task(backend))

    assert codes(found) == ["ready"]
    assert found.text.startswith("due since 2026-03-01 12:00:00 UTC, next to be taken, and nothing known prevents")
    assert advice(found).startswith("runners alive: 1; ")


def test_where_no_runner_is_alive_that_decides_over_what_a_runner_would_find(
    backend: SchedulerBackend, dispatch: Dispatch, app: Celery, why: Why
) -> None:
    # given a runner that died and left its row behind, and a full queue
    dead = dispatch.open_session()
    task = a_due_task(backend)
    unconfirmed(dispatch, dead)
    dead.close()
    backend.set_status_tasks([task], "next_run_not_scheduled")
    backend.set_task_type_limits("load-git", max_queue_length=1)
    fill(app, QUEUE, 1)
    until(lambda: "no_runner" in codes(why(task)))  # PostgreSQL takes its time to end a session
    # when
    found = why(task)
    # then
    assert codes(found) == ["no_runner", "queue_full"]
    assert found.text == "due since 2026-03-01 12:00:00 UTC, and no runner is alive"


def test_messages_that_stay_unconfirmed_stop_what_comes_after_them(
    backend: SchedulerBackend, database: Database, dispatch: Dispatch, session: DispatcherSession, why: Why
) -> None:
    a_due_task(backend)
    unconfirmed(dispatch, session)
    task = create(backend, a_task(1))
    assert codes(why(task)) == ["ready"]
    database.run(lambda conn: conn.execute(text("update dispatch_batch set opened = opened - interval '1 minute'")))

    found = why(task)

    assert codes(found) == ["open_batch"]
    assert found.text.startswith(f"batch for queue {QUEUE} opened at ")


def test_an_unconfirmed_message_names_its_batch_and_its_session(
    backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession, why: Why
) -> None:
    task = a_due_task(backend)
    batch = unconfirmed(dispatch, session)

    found = why(task)

    assert codes(found) == ["unconfirmed"]
    here = f"{socket.gethostname()}:{os.getpid()}"
    assert f": batch {batch} for queue {QUEUE}, of dispatcher session {session.id} ({here}, alive), is " in found.text
    # when its queue is paused and full
    backend.pause_queue(QUEUE)
    backend.set_task_type_limits("load-git", max_queue_length=0)
    assert codes(why(task)) == ["queue_paused", "unconfirmed", "queue_full"]


def test_a_message_of_a_dead_session_says_whether_somebody_can_take_it_over(
    backend: SchedulerBackend, dispatch: Dispatch, why: Why
) -> None:
    task = a_due_task(backend)
    dead = dispatch.open_session()
    unconfirmed(dispatch, dead)
    dead.close()

    # PostgreSQL takes its time to end the session
    until(lambda: ", gone), is not confirmed" in why(task).text)
    found = why(task)
    assert codes(found) == ["unconfirmed", "no_runner"]
    assert found.advice is None

    successor = dispatch.open_session()
    found = why(task)
    assert codes(found) == ["unconfirmed"]
    assert found.advice == "another runner takes it over within half a minute"
    successor.close()


@both
def test_a_message_that_nobody_consumes_is_told_where_it_lies(
    backend: SchedulerBackend, send: Send, why: Why, on_redis: bool
) -> None:
    backend.create_task_type(a_type())
    tasks = backend.create_tasks([a_task(n) for n in range(3)])
    send()

    found = why(tasks[1]["id"])

    assert f"sent at {found.facts.run and found.facts.run.scheduled:%Y-%m-%d %H:%M:%S} UTC as " in found.text
    assert f" as {run_id(backend, tasks[1]['id'])} to queue {QUEUE} and not received: " in found.text
    if on_redis:  # consumers can't be seen, messages can
        assert found.code == "queued"
        assert found.text.endswith("3 messages wait there, 1 of them before it")
        assert "celery inspect active_queues" in advice(found)
    else:
        assert codes(found) == ["no_consumer", "no_listener"]
        assert found.text.endswith("no worker consumes the queue; 3 messages wait there")
        assert (
            found.advice
            == f"start a worker with -Q {QUEUE}, or make one consume it: celery control add_consumer {QUEUE}"
        )


def test_consumers_that_are_busy_are_counted_on_rabbitmq(
    backend: SchedulerBackend, send: Send, app: Celery, why: Why
) -> None:
    backend.create_task_type(a_type())
    tasks = backend.create_tasks([a_task(n) for n in range(3)])
    send()
    with connect(app) as connection:
        channel = connection.default_channel
        channel.basic_qos(0, 1, False)
        channel.basic_consume(QUEUE, callback=lambda message: None)
        with Queues(app) as queues:
            until(lambda: queues.depth(QUEUE) == 2)

        found = why(tasks[2]["id"])

    assert found.code == "queued"
    assert found.text.endswith("and not received: 2 messages wait there, for 1 consumer")
    assert found.seen.queue is not None
    assert found.seen.queue.consumers == 1


@both
def test_a_message_that_is_in_its_queue_no_more_says_what_may_have_become_of_it(
    backend: SchedulerBackend, send: Send, app: Celery, why: Why, on_redis: bool
) -> None:
    # given a message that somebody took out and never reported, and on Redis others that came later
    task = a_due_task(backend)
    send()
    backend_id = run_id(backend, task)
    take(app, QUEUE)
    if on_redis:
        fill(app, QUEUE, 2)
    # when
    found = why(task)
    # then
    assert found.code == "not_in_queue"
    assert f"as {backend_id} to queue {QUEUE} and not received, and the queue no longer contains it: " in found.text
    assert f'end_task_run("{backend_id}", "lost")' in advice(found)


def test_a_run_that_starts_between_the_looks_at_database_and_broker_is_not_missed(
    backend: SchedulerBackend, database: Database, send: Send, app: Celery, broker: BrokerSettings
) -> None:
    task = a_due_task(backend)
    send()

    def meanwhile() -> Queues:
        take(app, QUEUE)
        backend.start_task_run(run_id(backend, task))
        return Queues(app)

    assert explain_task(database, meanwhile, broker, task).code == "started"


def test_a_task_that_was_taken_without_a_run_is_told_so(backend: SchedulerBackend, why: Why) -> None:
    task = a_due_task(backend)
    backend.grab_ready_tasks("load-git")

    found = why(task)

    assert codes(found) == ["no_run"]
    assert found.advice == (
        f'to have it sent: SchedulerBackend.set_status_tasks([{task}], status="next_run_not_scheduled")'
    )


@both
def test_what_a_worker_has_is_told_with_the_worker_and_that_it_died(
    backend: SchedulerBackend,
    send: Send,
    listener: Listener,
    start_worker: StartWorker,
    broker_url: str,
    tmp_path: Path,
    why: Why,
    on_redis: bool,
) -> None:
    # given a worker that is busy with one task and has taken another
    backend.create_task_type(a_type(backend_name="wait"))
    path = tmp_path / "go"
    arguments = {"args": [str(path)], "kwargs": {}}
    running = create(backend, a_task(1, arguments=arguments))
    send()
    worker = start_worker(broker_url, ["wait"], concurrency=1)
    until(Path(f"{path}.started").exists, what="the task has begun")
    waiting = create(backend, a_task(2, arguments=arguments | {"kwargs": {"result": 1}}))
    send()

    def events_say(code: str, task: int) -> bool:
        listener.run_once(Heartbeat())
        return why(task).code == code

    until(lambda: events_say("started", running) and events_say("received", waiting), 30)
    # when
    first, second = why(running), why(waiting)
    # then
    assert f"started on worker {worker.hostname} at " in first.text
    assert f" as {run_id(backend, running)}" in first.text
    assert f"received by worker {worker.hostname} and not started: it is busy with other tasks; sent at " in second.text
    assert first.also == second.also == []
    assert first.seen.worker_lives is (None if on_redis else True)
    # when the worker dies
    worker.kill()
    if not on_redis:
        until(lambda: codes(why(running)) == ["started", "worker_gone"])
        assert why(waiting).also[0].text.startswith(f"worker {worker.hostname} is not connected: ")


@both
def test_events_that_nobody_has_recorded_are_told_since_they_may_say_more(
    backend: SchedulerBackend, send: Send, app: Celery, broker: BrokerSettings, why: Why, on_redis: bool
) -> None:
    # given a run that is known to be started
    task = a_due_task(backend)
    send()
    backend.start_task_run(run_id(backend, task))
    assert codes(why(task)) == (["started"] if on_redis else ["started", "no_listener"])
    # when events wait, and nobody takes them
    fill_events(app, broker, 2)
    # then
    found = why(task)
    assert codes(found) == ["started", "events_waiting" if on_redis else "no_listener"]
    assert "2 messages" in found.also[0].text
    assert found.text.startswith("started on a worker at ")


def fill_events(app: Celery, broker: BrokerSettings, messages: int) -> None:
    with connect(app) as connection, Queues(app) as queues:
        message = connection.default_channel.prepare_message(b"[]")
        for _ in range(messages):
            connection.default_channel.basic_publish(message, exchange="", routing_key=event_queue_name(app, broker))
        until(lambda: queues.events(broker).depth == messages)


def test_a_broker_that_is_away_leaves_what_the_database_knows(
    backend: SchedulerBackend, database: Database, dispatch: Dispatch, session: DispatcherSession, send: Send
) -> None:
    def away() -> Queues:
        return Queues(create_app(BrokerSettings(url="amqp://guest:hidden@127.0.0.1:9//")))

    def nothing() -> Queues:
        raise BrokerUnavailable(reason="switched off")

    backend.create_task_type(a_type())
    sent = create(backend, a_task(1))
    send()
    due = create(backend, a_task(2))
    behind = create(backend, a_task(3))
    done = create(backend, a_task(4, status="disabled"))
    settings = BrokerSettings()

    found = explain_task(database, away, settings, sent)
    assert codes(found) == ["sent"]
    assert str(found.missing).startswith("The broker can't be reached: ")
    assert "hidden" not in found.text
    assert "and not received; the queue can't be seen: The broker can't be reached: " in found.text

    found = explain_task(database, nothing, settings, due)
    assert codes(found) == ["ready"]
    assert found.text.endswith("prevents it; the queue can't be seen: The broker can't be reached: switched off")

    assert codes(explain_task(database, nothing, settings, behind)) == ["behind"]
    assert explain_task(database, nothing, settings, done).missing is None  # it was not needed


@both
def test_a_queue_that_can_not_be_read_is_a_cause_of_its_own(
    backend: SchedulerBackend, session: DispatcherSession, app: Celery, why: Why, on_redis: bool
) -> None:
    task = a_due_task(backend)
    with connect(app) as connection:
        if on_redis:
            RedisLink(app).client.set(QUEUE, "this is no list")
        else:
            connection.default_channel.queue_declare(QUEUE, exclusive=True)

        found = why(task)

    assert codes(found) == ["queue_unreadable"]
    assert found.text.startswith(f"nothing is sent to queue {QUEUE} because its length can't be read: ")


def test_a_run_that_cannot_be_judged_says_by_which_rule_it_waits(
    backend: SchedulerBackend, database: Database, send: Send, why: Why
) -> None:
    task = a_due_task(backend)
    send()
    backend.start_task_run(run_id(backend, task))
    [run] = backend.get_task_runs([task])
    lost = Lost(database)

    lost.write_undecided({run["id"]: ("2b", "w1@here does not answer")})
    told = [reason.text for reason in why(task).also if reason.code == "undecided"]
    lost.write_undecided({})

    assert told == ["the rescuer can't tell whether it is lost, by rule 2b: w1@here does not answer"]
    assert "undecided" not in codes(why(task))


def test_an_unknown_task_is_an_error(why: Why) -> None:
    with pytest.raises(UnknownTask, match="No task has the id 4711"):
        why(4711)


def unconfirmed(dispatch: Dispatch, session: DispatcherSession | None = None, group: TaskGroup = PLAIN) -> int:
    """The id of a batch with all that is due and may pass; of a session that is gone unless one is given."""
    batch = dispatch.open_batch(session.id if session else gone(dispatch), QUEUE, group, 100)
    assert batch is not None
    return batch.id


def gone(dispatch: Dispatch) -> int:
    with_row = dispatch.open_session()
    with_row._conn.close()
    return with_row.id
