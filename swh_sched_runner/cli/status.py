"""``status``: queues, backlog, runs in flight, last failures."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import attrs
import click

from swh_sched_runner.backend import status as facts
from swh_sched_runner.broker.app import create_app
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import UNBOUNDED, document, table, warn
from swh_sched_runner.exc import BrokerUnavailable, DepthUnreadable, NotRunning
from swh_sched_runner.model import TaskType


@attrs.define(slots=True)
class Queue:
    """A queue, the task types that it serves, its bound (None: unbounded), and how many messages wait in it."""

    queue: str
    priority: bool
    types: list[str]
    bound: int | None
    depth: int | None = None
    unreadable: str | None = None


@click.command(short_help="Show queues, due tasks, runs in flight, last failures.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def status(context: Context, as_json: bool) -> None:
    """Show queues with depth and bound, due tasks, runs in flight, and the last failures.

    A queue whose depth can't be read is shown as unreadable, with a warning.
    """
    types = context.backend.get_task_types()
    overview = context.database.run(facts.overview)
    found = _queues(types, context.settings.broker.priority_queue)
    _read_depths(context, found)
    if as_json:
        queues_as_json = [attrs.asdict(queue) for queue in found]
        document({"time": datetime.now(UTC), "queues": queues_as_json, **attrs.asdict(overview)})
    else:
        _print(found, overview)


def _queues(types: Iterable[TaskType], template: str) -> list[Queue]:
    """The queues of these types, the ordinary ones first; one that several types share has the least bound."""
    found: dict[str, Queue] = {}
    ordinary = [(row["backend_name"], False, row) for row in types]
    with_priority = [(template.format(backend_name=name), True, row) for name, _, row in ordinary]
    for name, priority, row in ordinary + with_priority:
        bound = row["max_queue_length"]
        queue = found.setdefault(name, Queue(name, priority, [], bound))
        queue.types.append(row["type"])
        queue.bound = min((b for b in (queue.bound, bound) if b is not None), default=None)
    return list(found.values())


def _read_depths(context: Context, found: Iterable[Queue]) -> None:
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


def _print(found: Iterable[Queue], overview: facts.Overview) -> None:
    rows = [
        (
            queue.queue,
            "unreadable" if queue.unreadable else queue.depth,
            UNBOUNDED if queue.bound is None else queue.bound,
            ", ".join(queue.types),
        )
        for queue in found
        if not queue.priority or queue.depth != 0  # a priority queue that nobody uses says nothing
    ]
    table(
        "queues", ("queue", "depth", "bound", "types"), rows, empty="no task types yet: swh-sched-runner task-type add"
    )
    click.echo()
    backlog = [(due.type, due.priority, due.tasks, due.oldest) for due in overview.backlog]
    table("due", ("type", "priority", "tasks", "since (UTC)"), backlog, empty="nothing")
    click.echo()
    in_flight = [(row.type, row.waiting, row.started, row.oldest) for row in overview.in_flight]
    table("in flight", ("type", "waiting", "started", "oldest (UTC)"), in_flight, empty="nothing")
    click.echo()
    failures = [(row.ended, row.type, row.task, row.run, row.status, row.error) for row in overview.failures]
    table("last failures", ("ended (UTC)", "type", "task", "run", "status", "error"), failures)
    ledger = overview.ledger
    if ledger.batches:
        click.echo(f"\nnot confirmed by the broker yet: {ledger.batches} batches, {ledger.runs} runs")
    if ledger.set_aside:
        click.echo(f"\nevents that could not be read: {ledger.set_aside} (table event_set_aside)")
