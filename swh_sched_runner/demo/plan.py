"""How the demo is set up: its configuration, its task types, and a lister task for each source. In seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.demo import forges, lister, tasks
from swh_sched_runner.model import Task, TaskType

LIST_TYPE = "demo-list-git"
LOAD_TYPE = "load-git"
QUEUE_BOUND = 20

CONFIGURATION = """\
# How `swh-sched-runner demo` runs, in seconds where a fleet would have days. Written at every start.
data_directory = {directory}

[runner]
period_seconds = 0.5

# A killed worker's messages come back after that time; by default it is an hour.
[broker.transport_options]
visibility_timeout = 300

[visits.git]
period_seconds = {period_seconds}
batch_size = {batch_size}
absolute_cooldown_seconds = {cooldown_seconds}
scheduled_cooldown_seconds = 120.0
failed_cooldown_seconds = {failed_seconds}
not_found_cooldown_seconds = 60.0

# What changed since its last visit comes first, then what was never visited; what no forge tells of goes by its queue.
# With small batches that order shows.
[visits.git.policies]
already_visited_order_by_lag = 4.0
never_visited_oldest_update_first = 4.0
origins_without_last_update = 2.0
oldest_scheduled_first = 1.0
"""


@attrs.define(slots=True, frozen=True)
class Source:
    """What is listed: a directory or a URL, and whether its listings tell when repositories last changed."""

    address: str
    tells_last_update: bool = True

    @property
    def label(self) -> str:
        """A short name, unique among the sources of one demo most of the time."""
        return self.address if "://" in self.address else Path(self.address).name or self.address


def samples(folder: Path) -> list[Source]:
    """The sample forges in ``folder``."""
    return [Source(str(folder / forge.name), forge.tells_last_update) for forge in forges.FORGES]


def configuration(directory: Path, *, own: bool) -> str:
    """The configuration file; with ``own`` for repositories of the user's, which are visited less often."""
    return CONFIGURATION.format(
        directory=json.dumps(str(directory), ensure_ascii=False),
        period_seconds=1.0 if own else 2.0,
        batch_size=10 if own else 4,
        cooldown_seconds=20.0 if own else 5.0,
        failed_seconds=60.0 if own else 10.0,
    )


def prepare(backend: SchedulerBackend, sources: Sequence[Source]) -> list[Task]:
    """Make the task types, and a recurring lister task for each source, due at once if it is new.

    Those of other sources, which an earlier demo had, rest; their origins are visited no more.
    """
    backend.create_task_type(
        TaskType(
            type=LIST_TYPE,
            description="Find the git repositories of a directory or a URL",
            backend_name=tasks.LIST_GIT,
            default_interval=timedelta(seconds=8),
            min_interval=timedelta(seconds=2),
            max_interval=timedelta(seconds=60),
            backoff_factor=2.0,
            max_queue_length=QUEUE_BOUND,
            num_retries=2,
            retry_delay=timedelta(seconds=5),
        )
    )
    backend.create_task_type(
        TaskType(
            type=LOAD_TYPE,
            description="Visit a git repository",
            backend_name=tasks.LOAD_GIT,
            default_interval=timedelta(minutes=1),
            min_interval=timedelta(seconds=10),
            max_interval=timedelta(hours=1),
            backoff_factor=2.0,
            max_queue_length=QUEUE_BOUND,
            num_retries=1,
            retry_delay=timedelta(seconds=10),
        )
    )
    _retire_others(backend, sources)
    return [_lister_task(backend, source) for source in sources]


def _lister_task(backend: SchedulerBackend, source: Source) -> Task:
    arguments = {"args": [], "kwargs": {"source": source.address, "tells_last_update": source.tells_last_update}}
    now = datetime.now(UTC)
    for task in backend.search_tasks(task_type=LIST_TYPE, status="disabled"):
        if task["arguments"] == arguments:
            backend.set_status_tasks([task["id"]], "next_run_not_scheduled", now)
            return task
    return backend.create_tasks([Task(type=LIST_TYPE, arguments=arguments, next_run=now)])[0]


def _retire_others(backend: SchedulerBackend, sources: Sequence[Source]) -> None:
    wanted = {source.address for source in sources}
    backend.disable_tasks(
        task["id"]
        for task in backend.search_tasks(task_type=LIST_TYPE)
        if task["arguments"]["kwargs"].get("source") not in wanted
    )
    for known in backend.get_listers():
        if known.name == lister.LISTER and known.instance_name not in wanted:
            lister.retire(backend, known)
