"""What the overview of the database counts: what is due, in flight, and what failed last."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.inspection import status as facts
from swh_sched_runner.db.engine import Database
from swh_sched_runner.model import Task

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def load_git(backend: SchedulerBackend) -> str:
    backend.create_task_type(
        {"type": "load-git", "description": "d", "backend_name": "my.git", "default_interval": timedelta(days=1)}
    )
    return "load-git"


def tasks(backend: SchedulerBackend, task_type: str, names: Iterable[str], priority: str | None = None) -> list[Task]:
    return backend.create_tasks(
        [
            {
                "type": task_type,
                "arguments": {"args": [name], "kwargs": {}},
                "next_run": NOW - timedelta(hours=n),
                "priority": priority,
            }
            for n, name in enumerate(names)
        ]
    )


def test_the_overview_counts_what_is_due_by_type_and_priority(
    backend: SchedulerBackend, database: Database, load_git: str
) -> None:
    tasks(backend, load_git, "abc")
    tasks(backend, load_git, "de", priority="low")
    tasks(backend, load_git, "f", priority="high")
    early = NOW - timedelta(minutes=30)

    now, before = database.run(facts.overview, NOW), database.run(facts.overview, early)

    assert [(due.type, due.priority, due.tasks) for due in now.backlog] == [
        ("load-git", None, 3),
        ("load-git", "high", 1),
        ("load-git", "low", 2),
    ]
    assert now.backlog[0].oldest == NOW - timedelta(hours=2)
    assert [(due.priority, due.tasks) for due in before.backlog] == [(None, 2), ("low", 1)]


def test_the_overview_parts_runs_that_wait_from_runs_that_started(
    backend: SchedulerBackend, database: Database, load_git: str
) -> None:
    tasks(backend, load_git, "abcd")
    grabbed = backend.grab_ready_tasks(load_git, NOW)
    for task in grabbed[:3]:
        backend.schedule_task_run(task["id"], f"run-{task['id']}", timestamp=NOW)
    backend.start_task_run(f"run-{grabbed[0]['id']}", timestamp=NOW + timedelta(seconds=1))
    backend.start_task_run(f"run-{grabbed[1]['id']}", timestamp=NOW + timedelta(seconds=2))
    backend.end_task_run(f"run-{grabbed[1]['id']}", "eventful")

    (row,) = database.run(facts.overview).in_flight

    assert (row.type, row.waiting, row.started) == ("load-git", 2, 1)
    assert row.oldest == NOW


def test_the_overview_shows_the_last_failures_first(
    backend: SchedulerBackend, database: Database, load_git: str
) -> None:
    statuses = ("failed", "eventful", "permfailed", "lost")
    for n, task in enumerate(tasks(backend, load_git, "abcd")):
        backend.schedule_task_run(task["id"], f"run-{n}", timestamp=NOW)
        backend.end_task_run(f"run-{n}", statuses[n], {"error": f"e{n}"}, timestamp=NOW + timedelta(minutes=n))

    failures = database.run(facts.overview).failures
    newest = database.run(facts.overview, failures=1).failures

    assert [(row.status, row.error) for row in failures] == [("lost", "e3"), ("permfailed", "e2"), ("failed", "e0")]
    assert newest == failures[:1]
