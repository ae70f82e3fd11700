"""How queues stand: which there are, their limits, and what is known of them where the broker can't be asked."""

from __future__ import annotations

import pytest
from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import NotRunning, UnknownQueue
from swh_sched_runner.insight.queues import QueueStatus, get_queue, list_queues, ordinary_queues
from tests.support.samples import a_task, a_type

QUEUE = "tests.load-git"
PRIORITY_QUEUE = f"save_code_now:{QUEUE}"
SETTINGS = BrokerSettings()


@pytest.fixture
def broker_url(valkey_url: str) -> str:
    return valkey_url


def nothing_runs() -> Queues:
    raise NotRunning(directory="/nowhere", missing="broker.url")


def test_types_that_share_a_queue_are_held_to_the_least_limit(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type(max_queue_length=1000))
    backend.create_task_type(a_type("other", backend_name=QUEUE, max_queue_length=5))
    backend.create_task_type(a_type("third", backend_name=QUEUE, max_queue_length=None))

    ordinary, priority = list_queues(database, nothing_runs, SETTINGS).queues

    assert (ordinary.queue, ordinary.priority) == (QUEUE, False)
    assert (priority.queue, priority.priority) == (PRIORITY_QUEUE, True)
    for queue in (ordinary, priority):
        assert (queue.max_queue_length, queue.types) == (5, ["load-git", "other", "third"])


def test_due_tasks_of_all_types_and_priorities_of_a_queue_are_counted(
    backend: SchedulerBackend, database: Database
) -> None:
    # given two types that share their queue
    for name in ("load-git", "other"):
        backend.create_task_type(a_type(name, backend_name=QUEUE))
        backend.create_tasks([a_task(1, name), a_task(2, name, priority="high"), a_task(3, name, priority="low")])
    backend.grab_ready_tasks("other")
    # when
    ordinary, priority = list_queues(database, nothing_runs, SETTINGS).queues
    # then
    assert (ordinary.due, ordinary.in_flight) == (1, 1)
    assert (priority.due, priority.in_flight) == (4, 0)


def test_a_queue_whose_depth_is_refused_is_unreadable_and_the_others_are_read(
    backend: SchedulerBackend, database: Database, app: Celery
) -> None:
    backend.create_task_type(a_type())
    RedisLink(app).client.set(QUEUE, "this is no list")
    app.send_task("foreign", queue=PRIORITY_QUEUE)

    found = list_queues(database, lambda: Queues(app), SETTINGS)

    ordinary, priority = found.queues
    assert (ordinary.depth, priority.depth, priority.unreadable) == (None, 1, None)
    assert found.unreadable == [ordinary.unreadable]
    assert found.missing is None


def test_a_broker_that_is_away_leaves_what_the_database_knows_of_queues(
    backend: SchedulerBackend, database: Database
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task()])
    away = create_app(BrokerSettings(url="amqp://guest:hidden@127.0.0.1:1//"))

    for open_queues in (nothing_runs, lambda: Queues(away)):
        found = list_queues(database, open_queues, SETTINGS)

        assert found.missing is not None
        assert found.unreadable == []
        assert [(row.depth, row.due, row.unreadable) for row in found.queues] == [
            (None, 1, found.missing),
            (None, 0, found.missing),
        ]


def test_a_paused_queue_that_no_type_has_is_listed_as_well(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    backend.pause_queue("gone", by="ada")

    *_, gone = list_queues(database, nothing_runs, SETTINGS).queues

    assert (gone.queue, gone.types, gone.is_used) == ("gone", [], True)
    assert gone.pause is not None
    assert gone.pause.by == "ada"


def test_a_queue_is_found_by_its_name_and_an_unknown_name_says_which_is_near(
    backend: SchedulerBackend, database: Database
) -> None:
    backend.create_task_type(a_type())

    assert get_queue(database, SETTINGS, PRIORITY_QUEUE).types == ["load-git"]
    with pytest.raises(UnknownQueue, match=f"did you mean '{QUEUE}'"):
        get_queue(database, SETTINGS, "test.load-git")


def test_the_limit_of_a_queue_for_priorities_is_that_of_the_queues_of_its_types(
    backend: SchedulerBackend, database: Database
) -> None:
    for name in ("load-git", "load-hg"):
        backend.create_task_type(a_type(name))
    one = BrokerSettings(priority_queue="urgent")

    assert ordinary_queues(database, get_queue(database, one, "urgent").types) == [QUEUE, "tests.load-hg"]
    assert ordinary_queues(database, get_queue(database, SETTINGS, PRIORITY_QUEUE).types) == [QUEUE]


def test_a_queue_is_used_when_there_is_anything_to_say_of_it() -> None:
    idle = QueueStatus("q", False, [], None, depth=0)

    assert not idle.is_used
    for used in ({"depth": 1}, {"depth": None}, {"due": 1}, {"in_flight": 1}, {"unconfirmed_visits": 1}):
        assert QueueStatus("q", False, [], None, **({"depth": 0} | used)).is_used  # type: ignore[arg-type]
