"""How queues stand: what the database knows of them, and the broker's depths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from swh_sched_runner.backend.dispatch import limits
from swh_sched_runner.backend.dispatch.limits import Standing
from swh_sched_runner.backend.inspection import status as database_side
from swh_sched_runner.backend.inspection.status import Due
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.config import BrokerSettings, least_limit, queue_name
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import BrokerUnavailable, DepthUnreadable, NotRunning
from swh_sched_runner.model import Controls, Pause, Timestamp


@attrs.define(slots=True)
class QueueStatus:
    """A queue, the task types that it serves, and how it stands. ``max_queue_length`` None is no limit.

    ``priority``: it is for tasks with a priority. ``depth`` counts messages ready in the broker, None where that was
    not asked or is ``unreadable``, which says why. ``due`` counts tasks in the database, ``in_flight`` tasks that were
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


@attrs.define(slots=True, frozen=True)
class QueueList:
    """The queues of all task types, the ordinary ones first, and others that are paused.

    ``missing`` says why the broker could not be asked for depths, None if it could.
    """

    queues: list[QueueStatus]
    missing: str | None

    @property
    def unreadable(self) -> list[str]:
        """Why the broker, which was asked, didn't tell the depth of a queue; one reason for each such queue."""
        return [queue.unreadable for queue in self.queues if queue.unreadable not in (None, self.missing)]


def list_queues(database: Database, open_queues: Callable[[], Queues], settings: BrokerSettings) -> QueueList:
    """All queues, with their depths. ``open_queues`` may raise ``BrokerUnavailable`` or ``NotRunning``."""
    backlog, standing = database.run(database_side.backlog), database.run(limits.standing)
    return with_depths(from_database(standing, backlog, settings.priority_queue), open_queues)


def get_queue(database: Database, settings: BrokerSettings, name: str) -> QueueStatus:
    """The queue of that name; without its depth, and what is due is not counted.

    Raises ``UnknownQueue``, which says which one may be meant.
    """
    found = {queue.queue: queue for queue in from_database(database.run(limits.standing), (), settings.priority_queue)}
    if name not in found:
        raise limits.unknown_queue(name, found)
    return found[name]


def ordinary_queues(database: Database, types: Iterable[str]) -> list[str]:
    """The queues of these task types for tasks without a priority, whose limit holds for the others too."""
    wanted = set(types)
    return sorted({row.queue for row in database.run(limits.get).task_types if row.type in wanted})


def from_database(standing: Standing, backlog: Iterable[Due], priority_queue: str) -> list[QueueStatus]:
    """All queues without their depths. ``priority_queue`` is the template of the configuration."""
    found = _of_types(standing.controls, priority_queue)
    for paused in standing.controls.queues:
        if paused.pause is not None:
            found.setdefault(paused.queue, QueueStatus(paused.queue, False, [], None)).pause = paused.pause
    _add_tasks(found, backlog, standing, priority_queue)
    for unconfirmed in standing.unconfirmed:
        if (queue := found.get(unconfirmed.queue)) is not None:
            queue.unconfirmed_runs, queue.unconfirmed_visits = unconfirmed.runs, unconfirmed.visits
    for last in standing.published:
        if (queue := found.get(last.queue)) is not None:
            queue.published, queue.drain_rate = last.published, last.drain_rate
            queue.published_by = None if last.host is None else f"{last.host}:{last.pid}"
    return list(found.values())


def with_depths(found: Sequence[QueueStatus], open_queues: Callable[[], Queues]) -> QueueList:
    """The same queues with their depths, each ``unreadable`` that the broker can't be asked for or doesn't tell."""
    try:
        with open_queues() as broker:
            for queue in found:
                try:
                    queue.depth = broker.depth(queue.queue)
                except DepthUnreadable as error:
                    queue.unreadable = str(error)
    except (BrokerUnavailable, NotRunning) as error:
        for queue in found:
            if queue.depth is None and queue.unreadable is None:
                queue.unreadable = str(error)
        return QueueList(list(found), str(error))
    return QueueList(list(found), None)


def _of_types(controls: Controls, template: str) -> dict[str, QueueStatus]:
    """The queues of the task types by name, the ordinary ones first; what several types share has the least limit."""
    found: dict[str, QueueStatus] = {}
    for priority in (False, True):
        for row in controls.task_types:
            name = queue_name(row.queue, template, priority=priority)
            queue = found.setdefault(name, QueueStatus(name, priority, [], row.max_queue_length))
            if row.type not in queue.types:
                queue.types.append(row.type)
            queue.max_queue_length = least_limit((queue.max_queue_length, row.max_queue_length))
    return found


def _add_tasks(found: Mapping[str, QueueStatus], backlog: Iterable[Due], standing: Standing, template: str) -> None:
    groups = {
        (row.type, priority): found[queue_name(row.queue, template, priority=priority)]
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
