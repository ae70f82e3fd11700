"""Where everything stands, in one answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import NotRunning
from swh_sched_runner.insight.status import read_flow, read_status
from tests.support.samples import a_task, a_type


def nothing_runs() -> Queues:
    raise NotRunning(directory="/nowhere", missing="broker.url")


def test_throttled_are_the_types_that_are_paused_or_limited(backend: SchedulerBackend, database: Database) -> None:
    # given types that are limited in every way; a limit of none in flight is one
    for name in ("capped", "free", "paused", "rated"):
        backend.create_task_type(a_type(name))
    backend.set_task_type_limits("capped", max_in_flight=0)
    backend.set_task_type_limits("rated", rate_limit=0.5)
    backend.pause_task_type("paused")
    # when
    found = read_status(database, nothing_runs, BrokerSettings())
    # then
    assert [row.type for row in found.throttled] == ["capped", "paused", "rated"]


def test_queues_and_the_overview_count_the_same_due_tasks(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task(1), a_task(2), a_task(3, priority="high")])
    before = datetime.now(UTC)

    found = read_status(database, nothing_runs, BrokerSettings())

    assert before <= found.time <= datetime.now(UTC)
    assert [queue.due for queue in found.queues.queues] == [2, 1]
    assert sum(due.tasks for due in found.overview.backlog) == 3
    assert found.queues.missing is not None


def test_the_flow_counts_tasks_in_flight_by_type(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task(1), a_task(2)])
    backend.grab_ready_tasks("load-git")

    found = read_flow(database, timedelta(seconds=2))

    assert found.in_flight == {"load-git": 2}
    assert found.outbox.messages == 0
