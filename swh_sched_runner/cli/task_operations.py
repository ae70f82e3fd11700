"""``task set``, ``run-now``, ``disable``, ``enable``, ``respawn``, ``delete``: what an operator does to tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.exit_status import FAILED
from swh_sched_runner.cli.output import cell, document, warn
from swh_sched_runner.cli.parameters import NONE, count, duration, operator, timestamp
from swh_sched_runner.cli.task_conditions import conditions_of, in_words, of_tasks
from swh_sched_runner.exc import BrokerUnavailable, ConfigurationError, NotRunning
from swh_sched_runner.insight.format import count as counted
from swh_sched_runner.model import PRIORITIES, UNCHANGED

if TYPE_CHECKING:  # imported where they are used: --help needs no drivers
    from swh_sched_runner.backend.tasks.operations import Conditions, Operation, Outcome, TaskOperations

# So many refusals are told one by one; --json has all.
REFUSALS_SHOWN = 20
_DONE = {
    "set": "changed",
    "run-now": "made due",
    "disable": "disabled",
    "enable": "enabled",
    "respawn": "respawned",
    "delete": "deleted",
}
_WHY_NOT = {
    "unknown": "No task has the id {task}",
    "oneshot": "task {task} has no interval: it is one-shot",
    "disabled": "task {task} is disabled: `task enable {task}` first",
    "completed": "task {task} is completed: `task respawn {task}` makes it run again",
}
_IN_FLIGHT = {
    "set": "its end decides when it runs next",
    "run-now": "--force ends that run as lost first",
    "respawn": "--force ends that run as lost first",
    "delete": "delete it after its end, or end it with `task respawn --force` and disable it",
}
_force = click.option(
    "--force", is_flag=True, help="Of a task in flight, end the run as lost first, and revoke its message."
)


@click.command(name="set", epilog="Example: swh-sched-runner task set 17 --interval 6h --priority high")
@click.option("--interval", type=duration, metavar="DURATION", help="Interval of a recurring task, until its next end.")
@click.option("--next-run", type=timestamp, metavar="TIME", help="Due time: ISO 8601 (UTC), now, or +5m.")
@click.option(
    "--priority", "new_priority", type=click.Choice([*PRIORITIES, NONE]), help="Which queue it uses, from its next run."
)
@click.option("--retries", type=count, metavar="N", help="Retries that are left.")
@of_tasks
def set_task(
    context: Context,
    /,
    interval: timedelta | None,
    next_run: datetime | None,
    new_priority: str | None,
    retries: int | None,
    **rest: Any,
) -> None:
    """Change tasks. All but --next-run may be changed while a task is in flight."""
    if all(value is None for value in (interval, next_run, new_priority, retries)):
        raise click.UsageError("give what to change: --interval, --next-run, --priority or --retries")
    priority = UNCHANGED if new_priority is None else None if new_priority == NONE else new_priority
    _operate(
        context, "set", {"interval": interval, "next_run": next_run, "priority": priority, "retries": retries}, rest
    )


@click.command(name="run-now", epilog="Example: swh-sched-runner task run-now 17")
@_force
@of_tasks
def run_now(context: Context, /, force: bool, **rest: Any) -> None:
    """Make waiting tasks due now. One that is in flight is refused."""
    _operate(context, "run-now", {"force": force}, rest)


@click.command(epilog="Example: swh-sched-runner task disable --type load-git --error 'not found' --dry-run")
@of_tasks
def disable(context: Context, /, **rest: Any) -> None:
    """Disable tasks. A run in flight goes on; its task stays disabled after its end."""
    _operate(context, "disable", {}, rest)


@click.command(epilog="Example: swh-sched-runner task enable 17 18")
@of_tasks
def enable(context: Context, /, **rest: Any) -> None:
    """Enable disabled tasks; their next run stays. One whose run is still open is in flight again."""
    _operate(context, "enable", {}, rest)


@click.command(epilog="Example: swh-sched-runner task respawn --type load-git --failed-since 1h --yes")
@click.option("--next-run", type=timestamp, metavar="TIME", help="Due time: ISO 8601 (UTC), or +5m; default: now.")
@_force
@of_tasks
def respawn(context: Context, /, next_run: datetime | None, force: bool, **rest: Any) -> None:
    """Let tasks run again: waiting, completed and disabled ones. One that is in flight is refused.

    Retries that are left stay as they are; `task set --retries` changes them.
    """
    _operate(context, "respawn", {"next_run": next_run, "force": force}, rest)


@click.command(epilog="Example: swh-sched-runner task delete --type load-git --status completed --dry-run")
@of_tasks
def delete(context: Context, /, **rest: Any) -> None:
    """Delete tasks with all their runs. One that is in flight is refused."""
    _operate(context, "delete", {}, rest)


COMMANDS: Sequence[click.Command] = (set_task, run_now, disable, enable, respawn, delete)


def _operate(context: Context, verb: Any, wanted: dict[str, Any], rest: dict[str, Any]) -> None:
    from swh_sched_runner.backend.tasks.operations import Operation, TaskOperations

    ids, dry_run, yes, as_json = (rest.pop(name) for name in ("ids", "dry_run", "yes", "as_json"))
    conditions = conditions_of(ids, **rest)
    operation, operations = Operation(verb, by=operator(), **wanted), TaskOperations(context.migrated_database)
    if conditions is not None:
        ids = operations.select(conditions)
        if len(ids) > 1 and not (yes or dry_run):
            _ask(f"{verb} {in_words(len(ids), conditions)}")
    outcomes = _apply(context, operations, operation, ids, conditions, dry_run)
    refused = [outcome for outcome in outcomes if outcome.result not in ("changed", "unchanged", "passed over")]
    if as_json:
        document(_as_document(operation, outcomes, refused, dry_run))
    else:
        _tell(operation, outcomes, dry_run)
    for outcome in refused[:REFUSALS_SHOWN]:
        warn(_why(operation, outcome))
    if len(refused) > REFUSALS_SHOWN:
        warn(f"{counted(len(refused) - REFUSALS_SHOWN, 'more task')} refused: --json names all")
    if refused:
        click.get_current_context().exit(FAILED)


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question}: nobody can be asked without a terminal, add --yes")
    if not click.confirm(f"{question}?", err=True):
        warn("nothing was changed")
        click.get_current_context().exit(FAILED)


def _apply(
    context: Context,
    operations: TaskOperations,
    operation: Operation,
    ids: Sequence[int],
    conditions: Conditions | None,
    dry_run: bool,
) -> list[Outcome]:
    """Page by page, each a transaction. Messages are revoked when the ends of their runs are committed.

    The other way round a worker's event might end a run first, and move its task.
    """
    from swh_sched_runner.backend.tasks.operations import PAGE

    outcomes: list[Outcome] = []
    ids = sorted(set(ids))
    try:
        for at in range(0, len(ids), PAGE):
            outcomes += operations.apply(operation, ids[at : at + PAGE], conditions, dry_run=dry_run)
    finally:
        messages = [message for outcome in outcomes for message in outcome.ended]
        if messages and not dry_run:
            _revoke(context, messages)
    return outcomes


def _revoke(context: Context, messages: Sequence[str]) -> None:
    try:
        context.revoke(messages)
    except (BrokerUnavailable, ConfigurationError, NotRunning) as error:
        warn(
            f"{counted(len(messages), 'message')} could not be revoked: {error}. If a worker starts it, what it "
            "reports changes the ended run alone"
        )


def _tell(operation: Operation, outcomes: Sequence[Outcome], dry_run: bool) -> None:
    done = ("would be " if dry_run else "") + _DONE[operation.verb]
    numbers: Callable[[str], list[int]] = lambda result: [o.task for o in outcomes if o.result == result]  # noqa: E731
    if not outcomes:
        click.echo("no task meets the conditions")
    elif changed := numbers("changed"):
        click.echo(f"task {changed[0]} {done}" if len(changed) == 1 else f"{counted(len(changed), 'task')} {done}")
    if unchanged := numbers("unchanged"):
        already = "completed or disabled" if operation.verb == "disable" else "enabled"
        which = f"task {unchanged[0]} is" if len(unchanged) == 1 else f"{counted(len(unchanged), 'task')} are"
        click.echo(f"{which} already {already}")
    if passed := numbers("passed over"):
        click.echo(f"{counted(len(passed), 'task')} passed over: they met the conditions no longer")
    if ended := [message for outcome in outcomes for message in outcome.ended]:
        click.echo(f"{counted(len(ended), 'run')} {'would be ' if dry_run else ''}ended as lost")


def _why(operation: Operation, outcome: Outcome) -> str:
    if outcome.result != "in flight":
        return _WHY_NOT[outcome.result].format(task=outcome.task)
    if outcome.run is None:
        return f"task {outcome.task} is in flight, taken by a program that has opened no run of it yet"
    since = "" if outcome.since is None else f" since {cell(outcome.since)} UTC"
    return f"task {outcome.task} is in flight as run {outcome.run}{since}; {_IN_FLIGHT[operation.verb]}"


def _as_document(
    operation: Operation, outcomes: Sequence[Outcome], refused: Sequence[Outcome], dry_run: bool
) -> dict[str, Any]:
    def numbers(result: str) -> list[int]:
        return [outcome.task for outcome in outcomes if outcome.result == result]

    return {
        "dry_run": dry_run,
        "changed": numbers("changed"),
        "unchanged": numbers("unchanged"),
        "passed_over": numbers("passed over"),
        "refused": [
            {
                "task": outcome.task,
                "reason": outcome.result.replace(" ", "_"),
                "run": outcome.run,
                "since": outcome.since,
                "message": _why(operation, outcome),
            }
            for outcome in refused
        ],
        "ended": [message for outcome in outcomes for message in outcome.ended],
    }
