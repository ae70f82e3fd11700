"""``status``: services, queues, backlog, runs in flight, last failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, table
from swh_sched_runner.cli.queue_list import BRIEF, print_queues, warn_of_depths

if TYPE_CHECKING:
    from swh_sched_runner.insight.services import Services
    from swh_sched_runner.insight.status import Overview, Status

# `worker list` has the others.
MOST_WORKERS = 10


@click.command(short_help="Show services, queues, due tasks, runs in flight, last failures.")
@click.option("--check", is_flag=True, help="Exit with 1 if a service or all workers are missing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def status(ctx: click.Context, check: bool, as_json: bool) -> None:
    """Show the services and workers that live, queues with depth and limit, what is throttled, due tasks, runs in
    flight, and the last failures.

    If the depth of a queue can't be read, it is shown as unreadable, with a warning.
    """
    from swh_sched_runner.insight.status import read_status  # not above: it imports drivers, which --help needs not

    context: Context = ctx.obj
    settings = context.settings
    found = read_status(context.migrated_database, context.open_queues, settings.broker, visits=bool(settings.visits))
    warn_of_depths(found.queues)
    if as_json:
        services = {"services": found.services.alive, "missing": found.services.missing}
        shown = {"time": found.time, **services, "queues": found.queues.queues, "throttled": found.throttled}
        document(shown | attrs.asdict(found.overview, recurse=False))
    else:
        _print(found)
    if check and found.services.missing:
        ctx.exit(1)


def _print_services(found: Services) -> None:
    workers = sum(alive.service == "worker" for alive in found.alive)
    shown = found.alive[: len(found.alive) - max(workers - MOST_WORKERS, 0)]
    table(
        "services", ("service", "host:pid", "since (UTC)"), [(each.service, each.where, each.since) for each in shown]
    )
    if workers > MOST_WORKERS:
        click.echo(f"and {workers - MOST_WORKERS:,} more workers: swh-sched-runner worker list")
    for missing in found.missing:
        click.echo(missing)


def _print(found: Status) -> None:
    _print_services(found.services)
    click.echo()
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
    headers = ("ended (UTC)", "type", "task", "run", "status", "error")
    table("last failures", headers, failures, leave_out=("run", "status"))
    outbox = overview.outbox
    if outbox.batches:
        click.echo(
            f"\nnot confirmed by the broker yet: {outbox.batches} batches, {outbox.runs} runs, {outbox.visits} visits"
        )
    if outbox.rejected:
        click.echo(f"\nrejected events: {outbox.rejected} (swh-sched-runner events rejected list)")
