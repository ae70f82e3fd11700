"""``status``: queues, backlog, runs in flight, last failures."""

from __future__ import annotations

import attrs
import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, table
from swh_sched_runner.cli.queue_list import BRIEF, print_queues, warn_of_depths
from swh_sched_runner.insight.status import Overview, Status, read_status


@click.command(short_help="Show queues, due tasks, runs in flight, last failures.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def status(context: Context, as_json: bool) -> None:
    """Show queues with depth and limit, what is throttled, due tasks, runs in flight, and the last failures.

    If the depth of a queue can't be read, it is shown as unreadable, with a warning.
    """
    found = read_status(context.migrated_database, context.open_queues, context.settings.broker)
    warn_of_depths(found.queues)
    if as_json:
        shown = {"time": found.time, "queues": found.queues.queues, "throttled": found.throttled}
        document(shown | attrs.asdict(found.overview, recurse=False))
    else:
        _print(found)


def _print(found: Status) -> None:
    print_queues("queues", [queue for queue in found.queues.queues if queue.is_used or not queue.priority], BRIEF)
    click.echo()
    if found.throttled:
        limits = [(row.type, row.max_in_flight, row.rate_limit, row.pause) for row in found.throttled]
        table("throttled", ("type", "max in flight", "tasks/s", "paused (UTC)"), limits)
        click.echo()
    _print_overview(found.overview)


def _print_overview(overview: Overview) -> None:
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
        click.echo(f"\nrejected events: {outbox.rejected} (swh-sched-runner events rejected list)")
