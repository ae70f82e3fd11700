"""Who makes the tasks of a round, as a user of the backend would: in a process of its own, however the servers fare."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from faults.load import VISIT_TYPE, Load, Planned
from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.exc import SchedulerException
from swh_sched_runner.model import ListedOrigin, Task, TaskType

RETRY_SECONDS = 0.1


def prepare(database_url: str, load: Load) -> None:
    """Make task types and listed origins."""
    with SchedulerBackend(database_url) as backend:
        for each in load.types:
            backend.create_task_type(
                TaskType(
                    type=each.name,
                    description="A type of a crash test",
                    backend_name=each.queue,
                    default_interval=timedelta(days=1),
                    max_queue_length=each.limit,
                    num_retries=each.retries,
                    retry_delay=timedelta(0),
                )
            )
        if load.origins:
            lister = backend.get_or_create_lister("forge", "forge.example")
            assert lister.id is not None
            yesterday = datetime.now(UTC) - timedelta(days=1)
            backend.record_listed_origins(
                ListedOrigin(
                    lister_id=lister.id, url=url, visit_type=VISIT_TYPE, last_update=yesterday if n % 3 else None
                )
                for n, url in enumerate(load.origins)
            )


def call(database_url: str, load: Load) -> None:
    """Create the tasks, wave after wave; each call again until it succeeds, which creates nothing twice."""
    started = time.monotonic()
    with SchedulerBackend(database_url) as backend:
        for wave in load.waves:
            time.sleep(max(0.0, started + wave.at_seconds - time.monotonic()))
            now = datetime.now(UTC)
            for policy in ("oneshot", "recurring"):
                tasks = [_as_task(each, now) for each in wave.tasks if each.policy == policy]
                _insist(partial(backend.create_tasks, tasks, policy))


def _insist(create: Callable[[], object]) -> None:
    while True:
        try:
            create()
            return
        except SchedulerException:
            time.sleep(RETRY_SECONDS)


def _as_task(each: Planned, now: datetime) -> Task:
    return Task(
        type=each.task_type,
        arguments={"args": [], "kwargs": {"n": each.number}},
        next_run=now + timedelta(seconds=each.due_in_seconds),
        priority=each.priority,
    )
