"""Which tasks a command is for: their ids, or conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from swh_sched_runner.cli.parameters import duration, integer, timestamp
from swh_sched_runner.insight.format import STATUS_WORDS, count
from swh_sched_runner.model import STATUSES

if TYPE_CHECKING:  # imported where it is used: --help needs no drivers
    from swh_sched_runner.backend.tasks.operations import Conditions

# Of the command line, where words have no spaces.
_STATUSES = {word.replace(" ", "-"): stored for stored, word in STATUS_WORDS.items()}


def _stored_status(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else _STATUSES.get(value, value)


status_option = click.option(
    "--status",
    type=click.Choice([*_STATUSES, *STATUSES]),
    callback=_stored_status,
    metavar=f"[{'|'.join(_STATUSES)}]",
    help="Only of this status.",
)
failed_since_option = click.option(
    "--failed-since",
    type=duration,
    metavar="DURATION",
    help="Only if the last run that ended failed or was lost, at most so long ago.",
)
error_option = click.option(
    "--error", metavar="SUBSTRING", help="Only if the last run that ended failed with such an error."
)
_OPTIONS = (
    click.argument("ids", metavar="[ID]...", nargs=-1, type=integer),
    click.option("--type", "task_type", metavar="TYPE", help="Only of this type."),
    status_option,
    click.option("--before", type=timestamp, metavar="TIME", help="Only with a next run up to this time."),
    failed_since_option,
    error_option,
    click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing."),
    click.option("--yes", is_flag=True, help="Don't ask."),
    click.option("--json", "as_json", is_flag=True, help="One JSON document."),
    click.pass_obj,
)


def of_tasks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the ids and the conditions, and what goes with them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def conditions_of(
    ids: Sequence[int],
    task_type: str | None,
    status: str | None,
    before: datetime | None,
    failed_since: timedelta | None,
    error: str | None,
) -> Conditions | None:
    """The conditions that were given, None where it was ids. Neither and both are refused."""
    from swh_sched_runner.backend.tasks.operations import Conditions

    given = Conditions(task_type, status, before, failed_since, error)
    if bool(ids) == (given != Conditions()):
        raise click.UsageError("give either IDs or conditions: --type, --status, --before, --failed-since, --error")
    return None if ids else given


def in_words(tasks: int, conditions: Conditions) -> str:
    """``1,204 tasks of type look``."""
    from swh_sched_runner.cli.output import printable

    return printable(count(tasks, "task") + (f" of type {conditions.task_type}" if conditions.task_type else ""))
