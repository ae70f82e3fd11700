"""Grabbing and sending overlap, types share fairly, and an operator's pause takes effect in the middle of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.db.engine import Database
from swh_sched_runner.services.dispatch.fill_pass import (
    FAST_GRAB_SECONDS,
    SLOW_GRAB_SECONDS,
    SMALLEST_BATCH,
    AdaptiveBatchSize,
)
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.service import Heartbeat
from tests.services.dispatch.conftest import running
from tests.support.queues import depth, ids_of, take
from tests.support.samples import a_task, a_type
from tests.support.wait import until

QUEUE = "tests.load-git"
MakeRunner = Callable[..., Runner]


def test_a_round_gives_every_queue_a_batch_before_any_gets_a_second_one(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    names = [f"type-{n}" for n in range(6)]
    for name in names:
        backend.create_task_type(a_type(name, max_queue_length=None))
    backend.create_tasks(a_task(n, name) for name in names for n in range(30))

    make_runner(batch_size=10).run_once(Heartbeat())

    assert [depth(app, f"tests.{name}") for name in names] == [10] * 6


def test_types_that_share_a_queue_share_its_capacity_and_who_has_few_leaves_the_rest(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    for name in ("many", "more", "few"):
        backend.create_task_type(a_type(name, backend_name=QUEUE, max_queue_length=60))
    backend.create_tasks(
        a_task(n, name) for name, count in (("many", 200), ("more", 200), ("few", 5)) for n in range(count)
    )
    runner = make_runner()

    while runner.run_once(Heartbeat()):
        pass

    names = Counter(task["type"] for task in backend.search_tasks(status="next_run_scheduled"))
    assert sum(names.values()) == depth(app, QUEUE) == 60
    assert names["few"] == 5
    assert abs(names["many"] - names["more"]) <= 15


def test_no_type_starves_another_while_messages_are_taken_one_by_one(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    names = ("one", "two", "three")
    for name in names:
        backend.create_task_type(a_type(name, backend_name=QUEUE, max_queue_length=1))
        backend.create_tasks(a_task(n, name) for n in range(20))
    runner = make_runner()

    for _ in range(12):
        until(lambda: runner.run_once(Heartbeat()))
        assert len(take(app, QUEUE)) == 1

    counts = Counter(task["type"] for task in backend.search_tasks(status="next_run_scheduled"))
    assert counts == Counter(dict.fromkeys(names, 4))


@pytest.mark.parametrize("control", ["task type", "queue"])
def test_a_pause_takes_effect_while_messages_are_being_sent(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, database: Database, control: str
) -> None:
    backend.create_task_type(a_type(max_queue_length=None))
    backend.create_tasks(a_task(n) for n in range(6000))
    with running(make_runner(batch_size=50)):
        until(lambda: depth(app, QUEUE) > 200)
        if control == "queue":
            backend.pause_queue(QUEUE)
        else:
            backend.pause_task_type("load-git")
        until(lambda: not unconfirmed(database))
        paused_at = depth(app, QUEUE)
        threading.Event().wait(1.2)  # longer than the runner's period: it has looked again
        assert depth(app, QUEUE) == paused_at < 6000

        if control == "queue":
            backend.resume_queue(QUEUE)
        else:
            backend.resume_task_type("load-git")
        until(lambda: depth(app, QUEUE) == 6000, 30)


def unconfirmed(database: Database) -> int:
    with database.engine.begin() as conn:
        return int(conn.exec_driver_sql("select count(*) from dispatch_batch").scalar_one())


def test_batches_shrink_while_grabs_are_slow_and_grow_again() -> None:
    batch = AdaptiveBatchSize(1000)
    for _ in range(20):
        batch.note(batch.size, 2 * SLOW_GRAB_SECONDS)
    assert batch.size == SMALLEST_BATCH
    batch.note(SMALLEST_BATCH - 1, FAST_GRAB_SECONDS / 2)  # no more were due: that says nothing
    assert batch.size == SMALLEST_BATCH
    for _ in range(20):
        batch.note(batch.size, FAST_GRAB_SECONDS / 2)
    assert batch.size == 1000
    assert AdaptiveBatchSize(7).size == 7


def test_the_ids_that_arrive_are_those_of_the_runs_each_once(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, database: Database
) -> None:
    backend.create_task_type(a_type(max_queue_length=None))
    backend.create_tasks(a_task(n) for n in range(3000))
    runner = make_runner(batch_size=100)

    while runner.run_once(Heartbeat()):
        pass

    arrived = ids_of(take(app, QUEUE))
    runs = [run["backend_id"] for run in backend.get_task_runs(task["id"] for task in backend.search_tasks())]
    assert sorted(arrived) == sorted(runs)
    assert unconfirmed(database) == 0
