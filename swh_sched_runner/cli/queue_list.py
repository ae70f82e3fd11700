"""Tables of queues, as `queue list` and `status` print them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swh_sched_runner.cli.output import UNLIMITED, table, warn

if TYPE_CHECKING:
    from swh_sched_runner.insight.queues import QueueList, QueueStatus

_COLUMNS: Mapping[str, Callable[[QueueStatus], Any]] = {
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
_LEAVE_OUT = ("published (UTC)", "published by", "types", "unconfirmed", "oldest due (UTC)", "limit")


def print_queues(title: str | None, queues: Iterable[QueueStatus], columns: Sequence[str]) -> None:
    """Print a table of queues."""
    rows = [[_COLUMNS[column](queue) for column in columns] for queue in queues]
    table(title, columns, rows, empty="no task types yet: swh-sched-runner task-type add", leave_out=_LEAVE_OUT)


def warn_of_depths(found: QueueList) -> None:
    """Say on stderr which depths are missing, and why."""
    for reason in found.unreadable:
        warn(f"warning: {reason}")
    if found.missing is not None:
        warn(f"warning: no depths: {found.missing}")
