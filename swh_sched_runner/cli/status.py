"""``status``: queues, backlog, runs in flight, last failures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import attrs
import click

from swh_sched_runner.backend.dispatch import limits
from swh_sched_runner.backend.inspection import status as facts
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, table
from swh_sched_runner.cli.queue_list import BRIEF, Queue, list_queues, print_queues, read_depths
from swh_sched_runner.db import migrate
from swh_sched_runner.model import TypeControls


@click.command(short_help="Show queues, due tasks, runs in flight, last failures.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def status(context: Context, as_json: bool) -> None:
    """Show queues with depth and limit, what is throttled, due tasks, runs in flight, and the last failures.

    A queue whose depth can't be read is shown as unreadable, with a warning.
    """
    context.database.run(migrate.require)
    overview, standing = context.database.run(facts.overview), context.database.run(limits.standing)
    found = list_queues(context, overview.backlog, standing)
    read_depths(context, found)
    held = [row for row in standing.controls.task_types if row.pause or row.max_in_flight is not None or row.rate_limit]
    if as_json:
        shown = {"queues": [attrs.asdict(queue) for queue in found], "held_back": [attrs.asdict(row) for row in held]}
        document({"time": datetime.now(UTC), **shown, **attrs.asdict(overview)})
    else:
        _print(found, held, overview)


def _print(found: Sequence[Queue], held: Sequence[TypeControls], overview: facts.Overview) -> None:
    print_queues("queues", [queue for queue in found if queue.is_used or not queue.priority], BRIEF)
    click.echo()
    if held:
        limits = [(row.type, row.max_in_flight, row.rate_limit, row.pause) for row in held]
        table("held back", ("type", "in flight at most", "tasks a second", "paused (UTC)"), limits)
        click.echo()
    backlog = [(due.type, due.priority, due.tasks, due.oldest) for due in overview.backlog]
    table("due", ("type", "priority", "tasks", "since (UTC)"), backlog, empty="nothing")
    click.echo()
    in_flight = [(row.type, row.waiting, row.started, row.oldest) for row in overview.in_flight]
    table("in flight", ("type", "waiting", "started", "oldest (UTC)"), in_flight, empty="nothing")
    click.echo()
    failures = [(row.ended, row.type, row.task, row.run, row.status, row.error) for row in overview.failures]
    table("last failures", ("ended (UTC)", "type", "task", "run", "status", "error"), failures)
    outbox = overview.outbox
    if outbox.batches:
        click.echo(
            f"\nnot confirmed by the broker yet: {outbox.batches} batches, {outbox.runs} runs, {outbox.visits} visits"
        )
    if outbox.rejected:
        click.echo(f"\nrejected events: {outbox.rejected} (table rejected_event)")
