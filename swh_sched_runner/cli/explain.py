"""``explain``: why a task is not running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, printable, warn
from swh_sched_runner.cli.parameters import integer

if TYPE_CHECKING:
    from swh_sched_runner.insight.explain import Explanation


@click.group()
def explain() -> None:
    """Explain why a task is not running."""


@explain.command()
@click.argument("task_id", metavar="ID", type=integer)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def task(context: Context, task_id: int, as_json: bool) -> None:
    """Explain why the task ID is not running, or where it is, and what to do.

    The first line is the answer; lines with `also` are further reasons. A warning says if the broker can't be asked.
    """
    from swh_sched_runner.insight.explain import explain_task  # not above: --help needs no drivers

    found = explain_task(context.migrated_database, context.open_queues, context.settings.broker, task_id)
    if found.missing is not None:
        warn(f"warning: the broker was not asked: {found.missing}")
    if as_json:
        document(found)
    else:
        _print(found)


def _print(found: Explanation) -> None:
    facts = found.facts
    _line(f"task {facts.task}, {facts.type}: {found.text}")
    if found.advice:
        _line(f"  {found.advice}")
    for reason in found.also:
        _line(f"also: {reason.text}")
        if reason.advice:
            _line(f"  {reason.advice}")


def _line(text: str) -> None:
    click.echo(printable(text))
