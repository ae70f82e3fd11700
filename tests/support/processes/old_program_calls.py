"""Runs in the environment of swh.scheduler 3.6.0: calls groups of its backend, and prints what they answer as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attr
from swh.scheduler import get_scheduler  # type: ignore[import-not-found]
from swh.scheduler.model import (  # type: ignore[import-not-found]
    ListedOrigin,
    OriginVisitStats,
    Task,
    TaskArguments,
    TaskRun,
    TaskType,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
POLICIES = (
    "oldest_scheduled_first",
    "never_visited_oldest_update_first",
    "already_visited_order_by_lag",
    "origins_without_last_update",
    "stop_after_success",
)
Calls = dict[str, Callable[[], Any]]


def task(url: str, **more: Any) -> Any:
    """A task that is due."""
    given: dict[str, Any] = {"type": "old", "arguments": TaskArguments(args=[], kwargs={"url": url}), "next_run": NOW}
    return Task(**(given | more))


def origin(lister: Any, number: int) -> Any:
    """An origin; of odd ones the forge says when they changed."""
    return ListedOrigin(
        lister_id=lister.id,
        url=f"https://old.example/{number}",
        visit_type="git",
        last_update=NOW if number % 2 else None,
    )


def visited(number: int | str) -> Any:
    """What a visit found."""
    return OriginVisitStats(
        url=f"https://old.example/{number}",
        visit_type="git",
        last_visit=NOW,
        last_visit_status="successful",
        last_successful=NOW,
        last_snapshot=b"a" * 20,
    )


def reads(backend: Any) -> Calls:
    """All that only looks."""
    ids = [1, 2]
    return {
        "get_task_type": lambda: backend.get_task_type("old"),
        "get_task_types": backend.get_task_types,
        "search_tasks": lambda: backend.search_tasks(task_type="old"),
        "search_tasks, all filters": lambda: backend.search_tasks(
            task_id=1, status="next_run_not_scheduled", policy="recurring", before=NOW, after=NOW, limit=1
        ),
        "get_tasks": lambda: backend.get_tasks(ids),
        "peek_ready_tasks": lambda: backend.peek_ready_tasks("old", timestamp=NOW, num_tasks=2),
        "peek_ready_priority_tasks": lambda: backend.peek_ready_priority_tasks("old", timestamp=NOW, num_tasks=2),
        "get_task_runs": lambda: backend.get_task_runs(ids),
        "get_task_runs, some": lambda: backend.get_task_runs(ids, limit=1),
        "filter_task_to_archive": lambda: backend.filter_task_to_archive("2020-01-01", "2030-01-01"),
        "get_lister": lambda: backend.get_lister("old", "here"),
        "get_listers": backend.get_listers,
        "get_listers_by_id": lambda: backend.get_listers_by_id([str(backend.get_lister("old", "here").id)]),
        "get_listed_origins": lambda: backend.get_listed_origins(backend.get_lister("old", "here").id).results,
        "origin_visit_stats_get": lambda: backend.origin_visit_stats_get([("https://old.example/1", "git")]),
        "visit_scheduler_queue_position_get": backend.visit_scheduler_queue_position_get,
        "get_metrics": backend.get_metrics,
    }


def writes(backend: Any) -> Calls:
    """All that it may write: types, tasks, listers, origins, statistics, metrics."""
    kind = TaskType(
        type="old",
        description="Old",
        backend_name="tests.old",
        default_interval=DAY,
        min_interval=DAY / 24,
        max_interval=8 * DAY,
        backoff_factor=2.0,
        max_queue_length=10,
        num_retries=2,
        retry_delay=DAY / 24,
    )
    urls = [f"https://old.example/{number}" for number in range(4)]
    return {
        "create_task_type": lambda: backend.create_task_type(kind),
        "create_tasks": lambda: backend.create_tasks([*map(task, urls), task(urls[0], priority="high")]),
        "create_tasks, duplicates": lambda: backend.create_tasks([task(urls[1]), task(urls[1])]),
        "create_tasks, once": lambda: backend.create_tasks([task(urls[0], policy="oneshot")], "oneshot"),
        "set_status_tasks": lambda: backend.set_status_tasks([2], status="next_run_not_scheduled", next_run=NOW + DAY),
        "disable_tasks": lambda: backend.disable_tasks([3]),
        "get_or_create_lister": lambda: backend.get_or_create_lister("old", "here"),
        "get_or_create_lister, again": lambda: backend.get_or_create_lister("old", "here"),
        "update_lister": lambda: backend.update_lister(
            attr.evolve(backend.get_lister("old", "here"), current_state={"page": 7})
        ),
        "record_listed_origins": lambda: backend.record_listed_origins(
            [origin(backend.get_lister("old", "here"), number) for number in range(6)]
        ),
        "record_listed_origins, again": lambda: backend.record_listed_origins(
            [origin(backend.get_lister("old", "here"), number) for number in range(6)]
        ),
        "origin_visit_stats_upsert": lambda: backend.origin_visit_stats_upsert([visited(1)]),
        "origin_visit_stats_upsert, again": lambda: backend.origin_visit_stats_upsert([visited(1)]),
        "visit_scheduler_queue_position_set": lambda: backend.visit_scheduler_queue_position_set("git", 5),
        "update_metrics": backend.update_metrics,
    } | {
        f"grab_next_visits, {policy}": lambda policy=policy: backend.grab_next_visits("git", 1, policy, timestamp=NOW)
        for policy in POLICIES
    }


def decides(backend: Any) -> Calls:
    """What takes tasks and moves them."""
    run = TaskRun(
        task=1, backend_id="old-2", scheduled=NOW, id=0, started=None, ended=None, metadata={}, status="scheduled"
    )
    return {
        "grab_ready_tasks": lambda: backend.grab_ready_tasks("old", timestamp=NOW, num_tasks=1),
        "grab_ready_priority_tasks": lambda: backend.grab_ready_priority_tasks("old", timestamp=NOW, num_tasks=1),
        "schedule_task_run": lambda: backend.schedule_task_run(1, "old-1", timestamp=NOW),
        "mass_schedule_task_runs": lambda: backend.mass_schedule_task_runs([run]),
        "start_task_run": lambda: backend.start_task_run("old-1", timestamp=NOW),
        "end_task_run": lambda: backend.end_task_run("old-1", "eventful", timestamp=NOW),
    }


def archives(backend: Any) -> Calls:
    """Deleting what was archived: run 1 of task 1."""
    return {"delete_archived_tasks": lambda: backend.delete_archived_tasks([{"task_id": 1, "task_run_id": 1}])}


def later(backend: Any) -> Calls:
    """What it writes to an adopted database without the setting: of a task in flight, of new and of visited origins."""
    run = TaskRun(
        task=4, backend_id="old-2", scheduled=NOW, id=0, started=None, ended=None, metadata={}, status="scheduled"
    )
    lister = backend.get_lister("old", "here")
    return {
        "set_status_tasks": lambda: backend.set_status_tasks([1], status="next_run_not_scheduled"),
        "mass_schedule_task_runs": lambda: backend.mass_schedule_task_runs([run]),
        "set_status_tasks, in flight": lambda: backend.set_status_tasks([4, 5], status="next_run_scheduled"),
        "record_listed_origins": lambda: backend.record_listed_origins([origin(lister, number) for number in (20, 21)]),
        "origin_visit_stats_upsert": lambda: backend.origin_visit_stats_upsert(
            [visited(number) for number in ("3x", "unlisted")]
        ),
    }


GROUPS = {"reads": reads, "writes": writes, "decides": decides, "archives": archives, "later": later}


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if attr.has(type(value)):
        return attr.asdict(value)
    return str(value)


def answer(call: Callable[[], Any]) -> Any:
    """What it answers, or what it raises."""
    try:
        return call()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}


def main() -> None:
    """Each call of each group, in order."""
    backend = get_scheduler("postgresql", db=sys.argv[1])
    answers = {name: answer(call) for group in sys.argv[2:] for name, call in GROUPS[group](backend).items()}
    sys.stdout.write(json.dumps(answers, default=plain))


if __name__ == "__main__":
    main()
