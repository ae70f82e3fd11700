"""The list of queues that `queue list` and `status` print: what the database knows, and the broker's depths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from swh_sched_runner.backend.dispatch import limits
from swh_sched_runner.backend.dispatch.limits import Standing
from swh_sched_runner.backend.inspection import status as facts
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import UNLIMITED, table, warn
from swh_sched_runner.db import migrate
from swh_sched_runner.exc import BrokerUnavailable, DepthUnreadable, NotRunning
from swh_sched_runner.model import Controls, Pause, Timestamp, TypeControls


@attrs.define(slots=True)
class Queue:
    """A queue, the task types that it serves, and how it stands. ``max_queue_length`` None is no limit.

    ``depth`` counts messages ready in the broker, ``due`` tasks in the database, ``in_flight`` tasks that were
    taken and have not ended. What is unconfirmed is not confirmed by the broker: messages of runs, which are in flight,
    and of visits. ``published_by`` is host:pid of the runner that published to it last, while that lives.
    """

    queue: str
    priority: bool
    types: list[str]
    max_queue_length: int | None
    depth: int | None = None
    unreadable: str | None = None
    due: int = 0
    oldest_due: Timestamp | None = None
    in_flight: int = 0
    unconfirmed_runs: int = 0
    unconfirmed_visits: int = 0
    published_by: str | None = None
    published: Timestamp | None = None
    drain_rate: float | None = None
    pause: Pause | None = None

    @property
    def is_used(self) -> bool:
        """Whether there is anything to say of it."""
        return self.depth != 0 or bool(self.due or self.in_flight or self.unconfirmed or self.pause)

    @property
    def unconfirmed(self) -> int:
        """Messages that the broker has not confirmed."""
        return self.unconfirmed_runs + self.unconfirmed_visits


_COLUMNS: Mapping[str, Callable[[Queue], Any]] = {
    "queue": lambda queue: queue.queue,
    "depth": lambda queue: "unreadable" if queue.unreadable else queue.depth,
    "limit": lambda queue: UNLIMITED if queue.max_queue_length is None else queue.max_queue_length,
    "due": lambda queue: queue.due,
    "in flight": lambda queue: queue.in_flight,
    "unconfirmed": lambda queue: queue.unconfirmed or None,
    "oldest due (UTC)": lambda queue: queue.oldest_due,
    "published by": lambda queue: queue.published_by,
    "published (UTC)": lambda queue: queue.published,
    "paused (UTC)": lambda queue: queue.pause,
    "types": lambda queue: ", ".join(queue.types) or None,
}
BRIEF = ("queue", "depth", "limit", "paused (UTC)", "types")
WHOLE = tuple(_COLUMNS)


def list_queues(context: Context, backlog: Iterable[facts.Due], standing: Standing) -> list[Queue]:
    """The queues of all task types, the ordinary ones first, and others that are paused; without their depths."""
    template = context.settings.broker.priority_queue
    found = _of_types(standing.controls, template)
    for paused in standing.controls.queues:
        if paused.pause is not None:
            found.setdefault(paused.queue, Queue(paused.queue, False, [], None)).pause = paused.pause
    _add_tasks(found, backlog, standing, template)
    for unconfirmed in standing.unconfirmed:
        if (queue := found.get(unconfirmed.queue)) is not None:
            queue.unconfirmed_runs, queue.unconfirmed_visits = unconfirmed.runs, unconfirmed.visits
    for seen in standing.published:
        if (queue := found.get(seen.queue)) is not None:
            queue.published, queue.drain_rate = seen.published, seen.drain_rate
            queue.published_by = None if seen.host is None else f"{seen.host}:{seen.pid}"
    return list(found.values())


def _add_tasks(found: Mapping[str, Queue], backlog: Iterable[facts.Due], standing: Standing, template: str) -> None:
    groups = {
        (row.type, priority): found[name_of(row, template, priority)]
        for row in standing.controls.task_types
        for priority in (False, True)
    }
    # Read in transactions of their own: a type that came between them is in the next list.
    for due in backlog:
        if (queue := groups.get((due.type, due.priority is not None))) is not None:
            queue.due += due.tasks
            queue.oldest_due = due.oldest if queue.oldest_due is None else min(queue.oldest_due, due.oldest)
    for row in standing.in_flight:
        if (queue := groups.get((row.type, row.priority))) is not None:
            queue.in_flight += row.tasks


def _of_types(state: Controls, template: str) -> dict[str, Queue]:
    """The queues of the task types by name, the ordinary ones first; what several types share has the least limit."""
    found: dict[str, Queue] = {}
    for priority in (False, True):
        for row in state.task_types:
            name, max_queue_length = name_of(row, template, priority), row.max_queue_length
            queue = found.setdefault(name, Queue(name, priority, [], max_queue_length))
            if row.type not in queue.types:
                queue.types.append(row.type)
            queue.max_queue_length = min(
                (b for b in (queue.max_queue_length, max_queue_length) if b is not None), default=None
            )
    return found


def name_of(row: TypeControls, template: str, priority: bool) -> str:
    """The queue of tasks of a type, with or without a priority."""
    return template.format(backend_name=row.queue) if priority else row.queue


def read_depths(context: Context, found: Iterable[Queue]) -> None:
    """Fill in the depths; what can't be read is said once on stderr and kept with the queue."""
    try:
        with Queues(create_app(context.broker)) as broker:
            for queue in found:
                try:
                    queue.depth = broker.depth(queue.queue)
                except DepthUnreadable as error:
                    queue.unreadable = str(error)
                    warn(f"warning: {error}")
    except (BrokerUnavailable, NotRunning) as error:
        for queue in found:
            if queue.depth is None and queue.unreadable is None:
                queue.unreadable = str(error)
        warn(f"warning: no depths: {error}")


def read(context: Context) -> list[Queue]:
    """All queues and how they stand."""
    found = look(context)
    read_depths(context, found)
    return found


def look(context: Context, *, backlog: bool = True) -> list[Queue]:
    """All queues, without their depths; without ``backlog`` what is due is not counted either."""
    context.database.run(migrate.require)
    due = context.database.run(facts.backlog) if backlog else []
    return list_queues(context, due, context.database.run(limits.standing))


def print_queues(title: str | None, found: Iterable[Queue], columns: Sequence[str]) -> None:
    """Print a table of queues."""
    rows = [[_COLUMNS[column](queue) for column in columns] for queue in found]
    table(title, columns, rows, empty="no task types yet: swh-sched-runner task-type add")
