"""Task types and tasks for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.model import Task, TaskType

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def a_type(name: str = "load-git", **more: Any) -> TaskType:
    """A task type whose intervals double and halve between an hour and eight days."""
    given = {
        "type": name,
        "description": "Load a repository",
        "backend_name": f"tests.{name}",
        "default_interval": timedelta(days=1),
        "min_interval": timedelta(hours=1),
        "max_interval": timedelta(days=8),
        "backoff_factor": 2.0,
        "max_queue_length": 100,
        "num_retries": 2,
        "retry_delay": timedelta(minutes=5),
    }
    return TaskType(**(given | more))  # type: ignore[typeddict-item]


def a_task(number: int = 0, task_type: str = "load-git", **more: Any) -> Task:
    """A task that is due at ``NOW``, another one for each number."""
    arguments = {"args": [], "kwargs": {"url": f"https://forge.example/{number}"}}
    return Task(**({"type": task_type, "arguments": arguments, "next_run": NOW} | more))  # type: ignore[typeddict-item]


def run_of_a_task(backend: SchedulerBackend, backend_id: str = "run-1", **task: Any) -> Task:
    """A task whose run ``backend_id`` is open."""
    [created] = backend.create_tasks([a_task(**task)])
    backend.grab_ready_tasks(created["type"], NOW)
    backend.schedule_task_run(created["id"], backend_id, timestamp=NOW)
    return backend.get_tasks([created["id"]])[0]
