"""``queue``: what people and programs read of queues, and what pause, drain and limit do."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Batch, Dispatch, QueueSeen
from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.cli import queue as command
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.insight import drain
from swh_sched_runner.insight.queues import QueueStatus
from swh_sched_runner.model import Pause
from tests.cli.conftest import Run
from tests.support.queues import take
from tests.support.samples import NOW, a_task, a_type
from tests.support.wait import until

BROKER = "SWH_SCHED_RUNNER_BROKER__URL"
QUEUE = "tests.load-git"
PRIORITY_QUEUE = f"save_code_now:{QUEUE}"
LANE = TaskGroup("load-git", QUEUE, 100, priority=False)


@pytest.fixture
def due(backend: SchedulerBackend) -> SchedulerBackend:
    """A backend with five due tasks of one type."""
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n, next_run=NOW + timedelta(hours=n)) for n in range(5))
    return backend


@pytest.fixture
def session(database: Database) -> Iterator[DispatcherSession]:
    session = Dispatch(database).open_session()
    yield session
    session.close()


@pytest.fixture
def open_batch(database: Database, session: DispatcherSession) -> Callable[[int], Batch]:
    """Takes tasks and messages their messages, as a runner does."""

    def take_tasks(tasks: int) -> Batch:
        batch = Dispatch(database).open_batch(session.id, QUEUE, LANE, tasks)
        assert batch is not None
        return batch

    return take_tasks


@pytest.fixture
def app(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Celery:
    """The broker that the commands are configured for."""
    monkeypatch.setenv(BROKER, valkey_url)
    return create_app(BrokerSettings(url=valkey_url))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drains check all the time, and wait no longer than needed."""
    monkeypatch.setattr(drain, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(drain, "OBEYED_SECONDS", 0.05)
    monkeypatch.setattr(command, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setenv("SWH_SCHED_RUNNER_BROKER__CONFIRM_TIMEOUT_SECONDS", "0.1")


def pause_of(backend: SchedulerBackend, queue: str = QUEUE) -> Pause | None:
    return {row.queue: row.pause for row in backend.get_controls().queues}.get(queue)


def test_the_list_tells_depth_limit_what_is_due_and_in_flight_and_who_publishes(
    run: Run,
    due: SchedulerBackend,
    database: Database,
    session: DispatcherSession,
    open_batch: Callable[[int], Batch],
    app: Celery,
) -> None:
    # given two messages sent, one unconfirmed, two tasks due; and one due with priority
    due.create_tasks([a_task(9, priority="low")])
    batch = open_batch(3)
    for message in batch.messages[:2]:
        app.send_task(QUEUE, kwargs=message.kwargs, task_id=message.backend_id, queue=QUEUE)
    unconfirmed = [batch.messages[2].backend_id]
    Dispatch(database).close_batch(session.id, batch.id, unconfirmed, QueueSeen(QUEUE, 2, 1.5))
    due.pause_queue(PRIORITY_QUEUE, by="ada@host", reason="looking")
    # when
    ordinary, priority = run("queue", "list", "--json").json
    # then
    assert datetime.fromisoformat(ordinary.pop("published")) > NOW
    assert re.fullmatch(rf"{socket.gethostname()}:\d+", ordinary.pop("published_by"))
    assert ordinary == {
        "queue": QUEUE,
        "priority": False,
        "types": ["load-git"],
        "max_queue_length": 100,
        "depth": 2,
        "unreadable": None,
        "due": 2,
        "oldest_due": "2026-03-01T15:00:00+00:00",
        "in_flight": 3,
        "unconfirmed_runs": 1,
        "unconfirmed_visits": 0,
        "drain_rate": 1.5,
        "pause": None,
    }
    assert (priority["queue"], priority["due"], priority["in_flight"]) == (PRIORITY_QUEUE, 1, 0)
    assert (priority["pause"]["by"], priority["pause"]["reason"]) == ("ada@host", "looking")
    assert datetime.fromisoformat(priority["pause"]["since"]) > NOW


def test_the_list_for_people_has_a_line_a_queue(run: Run, due: SchedulerBackend, app: Celery) -> None:
    due.create_task_type(a_type("other", backend_name=QUEUE, max_queue_length=None))
    due.pause_queue("gone", by="ada", reason="odd\x1b[31m")

    header, ordinary, priority, gone = run("queue", "list").out.splitlines()

    assert re.split(" {2,}", header) == [
        *(
            "queue",
            "depth",
            "limit",
            "due",
            "in flight",
            "unconfirmed",
            "oldest due (UTC)",
            "published by",
            "published (UTC)",
        ),
        *("paused (UTC)", "types"),
    ]
    assert re.split(" {2,}", ordinary) == [
        *(QUEUE, "0", "100", "5", "0", "-", "2026-03-01 12:00:00", "-", "-", "-", "load-git, other"),
    ]
    assert priority.startswith(PRIORITY_QUEUE)
    assert re.fullmatch(r"gone +0 +unlimited +.* \S+ \S+ by ada: odd\\x1b\[31m +-", gone)


def test_an_empty_list_says_what_to_do(run: Run, app: Celery) -> None:
    outcome = run("queue", "list")

    assert (outcome.status, outcome.out) == (0, "  no task types yet: swh-sched-runner task-type add\n")
    assert run("queue", "list", "--json").json == []


def test_the_list_without_a_broker_tells_what_the_database_knows(
    run: Run, due: SchedulerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BROKER, "amqp://guest:hidden@127.0.0.1:1//")

    outcome = run("queue", "list", "--json")

    assert outcome.status == 0
    assert (outcome.json[0]["depth"], outcome.json[0]["due"]) == (None, 5)
    assert outcome.err.startswith("warning: no depths: The broker can't be reached: ")


def test_a_queue_is_paused_and_resumed_by_name(
    run: Run, due: SchedulerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")

    paused = run("queue", "pause", QUEUE, "--reason", "the forge is down")
    pause = pause_of(due)
    again = run("queue", "pause", QUEUE, "--by", "bob")
    resumed, idle = run("queue", "resume", QUEUE), run("queue", "resume", QUEUE)

    assert pause is not None
    assert (pause.by, pause.reason) == (f"ada@{socket.gethostname()}", "the forge is down")
    since = f"since {pause.since:%Y-%m-%d %H:%M:%S} by {pause.by}: the forge is down\n"
    assert [paused.status, again.status, resumed.status, idle.status] == [0, 0, 0, 0]
    assert paused.out == f"paused queue {QUEUE}\n"
    assert again.out == f"queue {QUEUE} is already paused, {since}"
    assert resumed.out == f"resumed queue {QUEUE}, paused {since}"
    assert idle.out == f"queue {QUEUE} is not paused\n"
    assert pause_of(due) is None


def test_the_queue_for_priorities_is_paused_on_its_own(run: Run, due: SchedulerBackend) -> None:
    run("queue", "pause", PRIORITY_QUEUE, "--by", "bob")

    assert pause_of(due, QUEUE) is None
    assert pause_of(due, PRIORITY_QUEUE) is not None


@pytest.mark.parametrize("words", [("pause",), ("resume",), ("limit", "5"), ("drain",)], ids=lambda words: words[0])
def test_a_name_that_is_no_queue_is_an_error_that_says_which_is_meant(
    run: Run, due: SchedulerBackend, app: Celery, words: tuple[str, ...]
) -> None:
    before = due.get_controls()

    outcome = run("queue", words[0], "test.load-git", *words[1:])

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (f"swh-sched-runner: No task type has the queue 'test.load-git': did you mean '{QUEUE}'?\n")
    assert due.get_controls() == before


def test_a_paused_queue_that_no_type_has_any_more_can_be_resumed(run: Run, due: SchedulerBackend) -> None:
    due.pause_queue("gone")

    outcome = run("queue", "resume", "gone")

    assert outcome.out.startswith("resumed queue gone, paused since ")
    assert pause_of(due, "gone") is None


def test_words_that_can_not_be_stored_are_refused(run: Run, due: SchedulerBackend) -> None:
    for option, value, said in (
        ("--reason", "", "Error: Invalid value for '--reason': \"\" must be "),
        ("--by", "", "Error: Invalid value for '--by': \"\" must be "),
        ("--reason", "\udcff", "Error: arguments must be UTF-8"),
    ):
        outcome = run("queue", "pause", QUEUE, option, value)

        assert (outcome.status, outcome.out) == (64, "")
        assert outcome.err.splitlines()[-1].startswith(said)
    assert pause_of(due) is None


def test_a_limit_is_changed_while_runners_are_at_work(run: Run, due: SchedulerBackend) -> None:
    due.create_task_type(a_type("other", backend_name=QUEUE))

    def limits_now() -> list[int | None]:
        return [row["max_queue_length"] for row in due.get_task_types()]

    assert run("queue", "limit", QUEUE, "7").out == f"queue {QUEUE}: limit 7\n"
    assert limits_now() == [7, 7]
    assert run("queue", "limit", QUEUE, "none").out == f"queue {QUEUE}: unlimited\n"
    assert limits_now() == [None, None]


def test_a_wrong_limit_is_refused(run: Run, due: SchedulerBackend) -> None:
    before = due.get_controls()

    no_number, negative = run("queue", "limit", QUEUE, "many"), run("queue", "limit", QUEUE, "-1")
    of_priority = run("queue", "limit", PRIORITY_QUEUE, "5")

    assert (no_number.status, negative.status, of_priority.status) == (64, 64, 1)
    assert "'many' is neither a number nor `none`" in no_number.err
    assert "max_queue_length: must be a whole number from 0 to" in negative.err
    assert f"{PRIORITY_QUEUE} is for tasks with a priority: it has the limit of {QUEUE}\n" in of_priority.err
    assert due.get_controls() == before


def test_a_drain_pauses_and_waits_for_messages_and_workers(
    run: Run, due: SchedulerBackend, database: Database, session: DispatcherSession, open_batch: Callable[[int], Batch],
    app: Celery, quick: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # given two messages in the queue, and a worker that takes them once the drain has told what is left
    batch = open_batch(2)
    for message in batch.messages:
        app.send_task(QUEUE, kwargs=message.kwargs, task_id=message.backend_id, queue=QUEUE)
    Dispatch(database).close_batch(session.id, batch.id)
    told: list[str] = []
    describe = command._describe

    def tell(left: QueueStatus) -> str:
        told.append(describe(left))
        return told[-1]

    monkeypatch.setattr(command, "_describe", tell)

    def work() -> None:
        until(lambda: told)
        taken = take(app, QUEUE)
        until(lambda: "depth 0, in flight 2, unconfirmed 0" in told)
        for message in taken:
            due.end_task_run(message.headers["id"], "eventful")

    worker = threading.Thread(target=work)
    worker.start()
    # when
    outcome = run("queue", "drain", QUEUE, "--timeout", "30")
    worker.join()
    # then
    paused, *progress, drained = outcome.out.splitlines()
    assert (outcome.status, outcome.err) == (0, "")
    assert paused == f"paused queue {QUEUE}"
    assert progress[0] == "depth 2, in flight 2, unconfirmed 0"
    assert progress[-1] == "depth 0, in flight 0, unconfirmed 0"
    assert drained == f"drained queue {QUEUE}; it stays paused"
    pause = pause_of(due)
    assert pause is not None
    assert pause.reason == "drain"


def test_a_drain_does_not_wait_for_unconfirmed_messages_that_are_not_sent(
    run: Run, due: SchedulerBackend, open_batch: Callable[[int], Batch], app: Celery, quick: None
) -> None:
    open_batch(3)

    outcome = run("queue", "drain", QUEUE, "--timeout", "30")

    assert outcome.status == 0
    assert outcome.out.splitlines()[-1] == (
        f"drained queue {QUEUE}; it stays paused; unconfirmed messages that are sent after it is resumed: 3"
    )


def test_a_drain_that_takes_too_long_says_what_is_left(
    run: Run, due: SchedulerBackend, app: Celery, quick: None
) -> None:
    app.send_task("foreign", queue=QUEUE)

    outcome = run("queue", "drain", QUEUE, "--timeout", "0.2", "--reason", "update")

    assert outcome.status == 1
    assert outcome.err == (
        f"Error: queue {QUEUE} is not drained after 0.2 s and stays paused: depth 1, in flight 0, unconfirmed 0\n"
    )
    pause = pause_of(due)
    assert pause is not None
    assert pause.reason == "update"


@pytest.mark.parametrize("timeout", ["soon", "-1", "inf", "nan"])
def test_a_timeout_that_is_none_is_wrong_usage(run: Run, due: SchedulerBackend, app: Celery, timeout: str) -> None:
    outcome = run("queue", "drain", QUEUE, "--timeout", timeout)

    assert outcome.status == 64
    assert f"'{timeout}' is not a number of seconds" in outcome.err
    assert pause_of(due) is None


def test_nothing_is_paused_for_a_drain_whose_broker_is_not_there(
    run: Run, due: SchedulerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BROKER, "amqp://guest:hidden@127.0.0.1:1//")

    outcome = run("queue", "drain", QUEUE)

    assert (outcome.status, outcome.out) == (69, "")
    assert outcome.err.startswith("swh-sched-runner: The broker can't be reached: ")
    assert pause_of(due) is None


def test_a_drain_that_is_interrupted_leaves_the_queue_paused_and_says_so(
    environ: dict[str, str], due: SchedulerBackend, database_url: str, app: Celery, valkey_url: str, tmp_path: Path
) -> None:
    # given a drain with a message that nobody takes
    app.send_task("foreign", queue=QUEUE)
    draining = subprocess.Popen(
        [sys.executable, "-m", "swh_sched_runner", "queue", "drain", QUEUE],
        env=environ | {BROKER: valkey_url, "SWH_SCHED_RUNNER_DATABASE__URL": database_url, "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert draining.stdout is not None
    try:
        said = draining.stdout.readline() + draining.stdout.readline()
        # when
        draining.send_signal(signal.SIGINT)
        _, err = draining.communicate(timeout=30)
    finally:
        draining.kill()
    # then
    assert said == f"paused queue {QUEUE}\ndepth 1, in flight 0, unconfirmed 0\n"
    assert (draining.returncode, err) == (
        130,
        f"queue {QUEUE} stays paused; to resume: swh-sched-runner queue resume {QUEUE}\n",
    )
    assert pause_of(due) is not None


def test_status_shows_what_is_throttled(run: Run, due: SchedulerBackend, app: Celery) -> None:
    due.create_task_type(a_type("free"))
    due.pause_queue(QUEUE, by="ada", reason="looking")
    due.set_task_type_limits("load-git", max_in_flight=7, rate_limit=0.5)

    as_json, for_people = run("status", "--json").json, run("status").out

    assert as_json["queues"][1]["pause"]["reason"] == "looking"
    assert as_json["throttled"] == [
        {
            "type": "load-git",
            "queue": QUEUE,
            "max_queue_length": 100,
            "max_in_flight": 7,
            "rate_limit": 0.5,
            "pause": None,
            "max_run_seconds": None,
            "keep_runs": None,
        }
    ]
    assert re.search(rf"{QUEUE} +0 +100 +\S+ \S+ by ada: looking +load-git", for_people)
    assert re.search(r"\nthrottled\ntype .*\nload-git +7 +0\.5 +-\n", for_people)
