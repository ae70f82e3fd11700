"""Operators' controls: what pauses, limits and bounds let pass, and what their callers get to know."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch import limits, outbox
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import InvalidArgument, UnknownQueue, UnknownTaskType
from swh_sched_runner.model import UNCHANGED, Controls, Pause, QueueControls, TypeControls
from tests.support.samples import a_task, a_type
from tests.support.wait import until

QUEUE = "tests.load-git"
LANE = TaskGroup("load-git", QUEUE, 100, priority=False)
SLOW = 1e-6  # tasks a second: the bucket holds one, and no test sees a second one

Call = Callable[[SchedulerBackend], object]


@pytest.fixture
def dispatch(database: Database) -> Dispatch:
    return Dispatch(database)


@pytest.fixture
def session(dispatch: Dispatch) -> Any:
    session = dispatch.open_session()
    yield session
    session.close()


@pytest.fixture
def due(backend: SchedulerBackend) -> SchedulerBackend:
    """A backend with ten due tasks."""
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n) for n in range(10))
    return backend


@pytest.fixture
def taken(dispatch: Dispatch, session: DispatcherSession) -> Callable[[], int]:
    """How many of ten tasks a grab gets."""

    def take() -> int:
        batch = dispatch.open_batch(session.id, QUEUE, LANE, 10)
        return 0 if batch is None else len(batch.messages)

    return take


def type_controls(backend: SchedulerBackend, name: str = "load-git") -> TypeControls:
    [found] = [row for row in backend.get_controls().task_types if row.type == name]
    return found


def now(database: Database) -> datetime:
    timestamp: datetime = database.run(lambda conn: conn.execute(text("select clock_timestamp()")).scalar_one())
    return timestamp


def test_without_controls_nothing_holds_back(due: SchedulerBackend) -> None:
    assert due.get_controls() == Controls([TypeControls("load-git", QUEUE, 100)], [QueueControls(QUEUE)])


def test_nothing_is_taken_from_a_paused_type_until_it_is_resumed(
    due: SchedulerBackend, taken: Callable[[], int]
) -> None:
    due.pause_task_type("load-git")
    assert taken() == 0

    due.resume_task_type("load-git")
    assert taken() == 10


def test_nothing_is_taken_for_a_paused_queue_until_it_is_resumed(
    due: SchedulerBackend, taken: Callable[[], int]
) -> None:
    due.pause_queue(QUEUE)
    assert taken() == 0

    due.resume_queue(QUEUE)
    assert taken() == 10


def test_a_pause_says_since_when_by_whom_and_why(due: SchedulerBackend, database: Database) -> None:
    before = now(database)

    due.pause_task_type("load-git", by="ada@host", reason="the forge is down")
    due.pause_queue("other", by="bob@host")

    of_type = type_controls(due).pause
    queues = {row.queue: row.pause for row in due.get_controls().queues}
    assert of_type is not None
    assert before < of_type.since < now(database)
    assert (of_type.since.tzinfo, of_type.by, of_type.reason) == (UTC, "ada@host", "the forge is down")
    assert list(queues) == ["other", QUEUE]  # that of no type is shown while it is paused
    assert queues["other"] is not None
    assert (queues["other"].by, queues["other"].reason) == ("bob@host", None)
    assert queues[QUEUE] is None


PAUSES: dict[str, tuple[Callable[..., Pause | None], Callable[..., Pause | None]]] = {
    "type": (
        lambda backend, **words: backend.pause_task_type("load-git", **words),
        lambda backend: backend.resume_task_type("load-git"),
    ),
    "queue": (
        lambda backend, **words: backend.pause_queue(QUEUE, **words),
        lambda backend: backend.resume_queue(QUEUE),
    ),
}
each_pause = pytest.mark.parametrize(("pause", "resume"), PAUSES.values(), ids=PAUSES)


@each_pause
def test_the_first_pause_stays_and_whoever_comes_next_is_told(
    due: SchedulerBackend, pause: Callable[..., Pause | None], resume: Callable[..., Pause | None]
) -> None:
    first = pause(due, by="ada", reason="one")
    second, third = pause(due, by="bob", reason="two"), pause(due)
    ended, again = resume(due), resume(due)

    assert (first, again) == (None, None)
    assert second is not None
    assert (second.by, second.reason) == ("ada", "one")
    assert second == third == ended
    assert pause(due) is None  # a new one


@each_pause
def test_of_pauses_at_the_same_time_one_is_the_first(
    due: SchedulerBackend, pause: Callable[..., Pause | None], resume: Callable[..., Pause | None]
) -> None:
    together = threading.Barrier(4)

    def run(name: str) -> Pause | None:
        together.wait(30)
        return pause(due, by=name)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(run, "abcd"))

    ended = resume(due)
    assert answers.count(None) == 1
    assert [answer for answer in answers if answer is not None] == [ended] * 3
    assert ended is not None
    assert ended.by == "abcd"[answers.index(None)]


def test_a_pause_waits_for_the_grab_under_way_and_nothing_is_taken_after_it(
    due: SchedulerBackend, database: Database, session: DispatcherSession, taken: Callable[[], int]
) -> None:
    # given a grab under a limit that is not committed
    due.set_task_type_limits("load-git", max_in_flight=5)
    with database.engine.connect() as grab, ThreadPoolExecutor(1) as pool:
        outbox._open_batch(grab, session.id, QUEUE, LANE, 10, None)
        # when
        paused = pool.submit(due.pause_task_type, "load-git")
        until(partial(_somebody_waits, database), what="the pause waits")
        assert not paused.done()
        grab.commit()
        paused.result(30)
    # then
    pause = type_controls(due).pause
    runs = due.get_task_runs(task["id"] for task in due.search_tasks())
    assert pause is not None
    assert len(runs) == 5
    assert all(run["scheduled"] is not None and run["scheduled"] < pause.since for run in runs)
    due.set_task_type_limits("load-git", max_in_flight=None)
    assert taken() == 0


def _somebody_waits(database: Database) -> bool:
    statement = """
        select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')
    """
    return bool(database.run(lambda conn: conn.execute(text(statement)).scalar_one()))


def test_no_more_tasks_are_taken_than_may_be_in_flight(due: SchedulerBackend, taken: Callable[[], int]) -> None:
    due.set_task_type_limits("load-git", max_in_flight=3)
    assert [taken(), taken()] == [3, 0]

    due.set_task_type_limits("load-git", max_in_flight=5)
    assert [taken(), taken()] == [2, 0]

    runs = due.get_task_runs(task["id"] for task in due.search_tasks())
    due.end_task_run(runs[0]["backend_id"], "eventful")
    assert [taken(), taken()] == [1, 0]

    due.set_task_type_limits("load-git", max_in_flight=0)
    due.end_task_run(runs[1]["backend_id"], "eventful")
    assert taken() == 0

    due.set_task_type_limits("load-git", max_in_flight=None)
    assert taken() == 4


def test_no_more_tasks_are_taken_than_the_rate_allows(due: SchedulerBackend, taken: Callable[[], int]) -> None:
    due.set_task_type_limits("load-git", rate_limit=SLOW)
    assert [taken(), taken()] == [1, 0]

    due.set_task_type_limits("load-git", rate_limit=None)
    assert taken() == 9


def test_a_rate_that_is_raised_lets_tasks_pass_again(due: SchedulerBackend, taken: Callable[[], int]) -> None:
    due.set_task_type_limits("load-git", rate_limit=SLOW)
    assert [taken(), taken()] == [1, 0]

    due.set_task_type_limits("load-git", rate_limit=1000)
    assert until(taken) > 0


def test_limits_that_are_not_given_stay_as_they_are(due: SchedulerBackend) -> None:
    due.pause_task_type("load-git", by="ada")
    pause = type_controls(due).pause

    def limits() -> tuple[int | None, int | None, float | None]:
        found = type_controls(due)
        assert found.pause == pause
        return found.max_queue_length, found.max_in_flight, found.rate_limit

    due.set_task_type_limits("load-git", max_queue_length=7, max_in_flight=8, rate_limit=0.5)
    assert limits() == (7, 8, 0.5)
    due.set_task_type_limits("load-git")
    assert limits() == (7, 8, 0.5)
    due.set_task_type_limits("load-git", max_queue_length=None)
    assert limits() == (None, 8, 0.5)
    due.set_task_type_limits("load-git", UNCHANGED, None, 2)
    assert limits() == (None, None, 2.0)
    due.set_task_type_limits("load-git", max_in_flight=0, rate_limit=None)
    assert limits() == (None, 0, None)


def test_the_limit_of_a_queue_is_that_of_all_types_that_share_it(backend: SchedulerBackend) -> None:
    for name, queue in (("a", "shared"), ("b", "shared"), ("c", "other")):
        backend.create_task_type(a_type(name, backend_name=queue))

    def bounds() -> list[int | None]:
        return [row["max_queue_length"] for row in backend.get_task_types()]

    backend.set_queue_limit("shared", 5)
    assert bounds() == [5, 5, 100]
    backend.set_queue_limit("shared", None)
    assert bounds() == [None, None, 100]
    backend.set_queue_limit("other", 0)
    assert bounds() == [None, None, 0]


def test_the_limit_of_an_unknown_queue_is_an_error_that_names_it(backend: SchedulerBackend) -> None:
    with pytest.raises(UnknownQueue, match=r"^No task type has the queue 'nosuch': there are no task types yet$"):
        backend.set_queue_limit("nosuch", 5)
    for n in range(12):
        backend.create_task_type(a_type(f"{n:02}"))

    with pytest.raises(UnknownQueue, match=r"queue 'test\.11': did you mean 'tests\.11'\?$"):
        backend.set_queue_limit("test.11", 5)
    with pytest.raises(UnknownQueue, match=r"queue '\?': known are 'tests\.00', .*, 'tests\.09' and 2 more$"):
        backend.set_queue_limit("?", 5)


@pytest.mark.parametrize(
    "call",
    [
        lambda backend: backend.pause_task_type("nosuch"),
        lambda backend: backend.resume_task_type("nosuch"),
        lambda backend: backend.set_task_type_limits("nosuch", max_in_flight=1),
        lambda backend: backend.set_task_type_limits("nosuch"),
    ],
)
def test_an_unknown_task_type_is_named(due: SchedulerBackend, call: Call) -> None:
    with pytest.raises(UnknownTaskType, match="'nosuch'"):
        call(due)


WRONG = [
    ("task_type", lambda backend: backend.pause_task_type("")),
    ("task_type", lambda backend: backend.pause_task_type("a\0b")),
    ("task_type", lambda backend: backend.pause_task_type("\ud800")),
    ("task_type", lambda backend: backend.resume_task_type(7)),
    ("by", lambda backend: backend.pause_task_type("load-git", by="")),
    ("reason", lambda backend: backend.pause_task_type("load-git", reason="a\0b")),
    ("queue", lambda backend: backend.pause_queue("")),
    ("queue", lambda backend: backend.pause_queue(None)),
    ("by", lambda backend: backend.pause_queue(QUEUE, by=b"bytes")),
    ("reason", lambda backend: backend.pause_queue(QUEUE, reason="\udcff")),
    ("queue", lambda backend: backend.resume_queue("\0")),
    ("queue", lambda backend: backend.set_queue_limit("", 5)),
    *[
        ("max_queue_length", lambda backend, n=n: backend.set_queue_limit(QUEUE, n))
        for n in (-1, 2**63, 1.5, True, "5", UNCHANGED)
    ],
    *[
        (name, lambda backend, name=name, n=n: backend.set_task_type_limits("load-git", **{name: n}))
        for name in ("max_queue_length", "max_in_flight")
        for n in (-1, 2**63, 1.5, True, "5")
    ],
    *[
        ("rate_limit", lambda backend, n=n: backend.set_task_type_limits("load-git", max_in_flight=1, rate_limit=n))
        for n in (0, -1, 1e-7, 1e7, 10**400, float("inf"), float("nan"), True, "1")
    ],
]


def test_wrong_arguments_are_named_and_nothing_is_written(due: SchedulerBackend) -> None:
    before = due.get_controls()

    for argument, call in WRONG:
        with pytest.raises(InvalidArgument, match=f"^{argument}: must "):
            call(due)
        assert due.get_controls() == before


@pytest.mark.parametrize(
    "call",
    [
        lambda backend: backend.resume_task_type("load-git"),
        lambda backend: backend.resume_queue(QUEUE),
        lambda backend: backend.set_task_type_limits("load-git", max_in_flight=10),
        lambda backend: backend.set_task_type_limits("load-git", rate_limit=None),
        lambda backend: backend.set_queue_limit(QUEUE, 1000),
    ],
)
def test_what_lets_more_pass_wakes_a_runner_that_sleeps(
    due: SchedulerBackend, session: DispatcherSession, call: Call
) -> None:
    due.pause_task_type("load-git")
    due.pause_queue(QUEUE)
    assert session.fall_asleep(600)
    assert not session.wait(0)

    call(due)

    assert session.wait(30)


def test_no_runner_falls_asleep_while_a_resume_is_under_way(
    due: SchedulerBackend, database: Database, session: DispatcherSession
) -> None:
    due.pause_queue(QUEUE)
    with database.engine.connect() as conn:
        limits.resume_queue(conn, QUEUE)
        during = session.fall_asleep(600)
        conn.commit()
    after = session.fall_asleep(600)

    assert (during, after) == (False, True)


def test_a_pause_wakes_nobody(due: SchedulerBackend, session: DispatcherSession) -> None:
    assert session.fall_asleep(600)

    due.pause_task_type("load-git")
    due.pause_queue(QUEUE)

    assert not session.wait(0.05)


def test_queue_states_tell_tasks_with_a_priority_and_unconfirmed_messages_apart(
    due: SchedulerBackend, database: Database, dispatch: Dispatch, session: DispatcherSession
) -> None:
    # given seven tasks in flight without priority and one with: two batches, one of them confirmed in part
    due.create_tasks([a_task(99, priority="high")])
    sent = dispatch.open_batch(session.id, QUEUE, LANE, 4)
    dispatch.open_batch(session.id, QUEUE, LANE, 3)
    high = dispatch.open_batch(session.id, "urgent", TaskGroup("load-git", QUEUE, 100, priority=True), 3)
    assert sent is not None
    assert high is not None
    dispatch.close_batch(session.id, sent.id, [sent.messages[0].backend_id, sent.messages[1].backend_id])
    due.start_task_run(sent.messages[0].backend_id)  # it has arrived, whatever the broker says
    dispatch.close_batch(session.id, high.id)
    due.end_task_run(sent.messages[3].backend_id, "eventful")
    # when
    standing = database.run(limits.standing)
    # then
    assert [(row.type, row.priority, row.tasks) for row in standing.in_flight] == [
        ("load-git", False, 6),
        ("load-git", True, 1),
    ]
    assert [(row.queue, row.runs, row.visits) for row in standing.unconfirmed] == [(QUEUE, 4, 0)]


def test_who_fills_a_queue_is_known_while_that_runner_lives(
    due: SchedulerBackend, database: Database, dispatch: Dispatch
) -> None:
    session = dispatch.open_session()
    batch = dispatch.open_batch(session.id, QUEUE, LANE, 1)
    assert batch is not None
    dispatch.close_batch(session.id, batch.id, batch_ids(batch), outbox.QueueSeen(QUEUE, 1, 2.5))

    [alive] = database.run(limits.standing).published
    session.close()
    [gone] = until(partial(_without_host, database), what="the runner is gone")

    assert alive.host is not None
    assert (alive.queue, alive.drain_rate) == (QUEUE, 2.5)
    assert gone.pid is None
    assert gone.published == alive.published


def batch_ids(batch: outbox.Batch) -> list[str]:
    """What keeps the batch open, so that its session stays known after its end."""
    return [message.backend_id for message in batch.messages]


def _without_host(database: Database) -> list[limits.Published]:
    return [row for row in database.run(limits.standing).published if row.host is None]
