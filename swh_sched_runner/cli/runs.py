"""``runs``: the runs of tasks."""

from __future__ import annotations

from datetime import timedelta

import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, table
from swh_sched_runner.cli.parameters import duration


@click.group()
def runs() -> None:
    """Delete old runs of tasks."""


@runs.command()
@click.option("--task-type", metavar="TYPE", help="Only runs of this type.")
@click.option(
    "--older-than", type=duration, metavar="DURATION", help="Runs that ended so long ago, whatever their types keep."
)
@click.option("--dry-run", is_flag=True, help="Count them; nothing is deleted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def prune(context: Context, task_type: str | None, older_than: timedelta | None, dry_run: bool, as_json: bool) -> None:
    """Delete ended runs that are older than their task type keeps them (`task-type set NAME --keep-runs`).

    A run that its task follows, such as the last one of a one-shot task, stays. May be interrupted and run again.
    """
    # Not above: --help needs no drivers.
    from swh_sched_runner.backend.tasks.retention import PruneRule, Retention
    from swh_sched_runner.services.maintenance.retention import Pruner
    from swh_sched_runner.services.service import Heartbeat

    retention, rule = Retention(context.migrated_database), PruneRule(task_type, older_than, dry_run)
    retention.require(rule)
    pruner, heartbeat = Pruner(retention, context.settings.pruner, rule=rule), Heartbeat()
    while pruner.run_once(heartbeat):
        pass
    if as_json:
        document({"dry_run": dry_run, "pruned": dict(sorted(pruner.pruned.items()))})
    else:
        head = ("type", "would be pruned" if dry_run else "pruned")
        table(None, head, sorted(pruner.pruned.items()), empty="no run is older than it is kept")
