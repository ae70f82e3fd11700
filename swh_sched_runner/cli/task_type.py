"""``task-type``: the kinds of tasks."""

from __future__ import annotations

from typing import Any, cast

import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import UNBOUNDED, document, table
from swh_sched_runner.cli.parameters import duration
from swh_sched_runner.model import TaskType

NONE = "none"
_HEADERS = ("type", "queue", "bound", "interval", "min", "max", "factor", "retries", "retry delay", "description")


@click.group(name="task-type")
def task_type() -> None:
    """Add and list the kinds of tasks."""


@task_type.command()
@click.argument("name")
@click.option("--backend-name", required=True, help="Name of the Celery task, and of its queue.")
@click.option("--description", help="What tasks of this type do, for people.")
@click.option("--default-interval", type=duration, help="Between two runs of a new recurring task, such as 1d.")
@click.option("--min-interval", type=duration, help="Never more often than this.")
@click.option("--max-interval", type=duration, help="Never less often than this.")
@click.option("--backoff-factor", type=float, help="An uneventful run multiplies the interval, an eventful divides it.")
@click.option("--max-queue-length", help="Bound of the queue, 1000 unless given; `none` is unbounded.")
@click.option("--num-retries", type=int, help="How many failures in a row are tried again.")
@click.option("--retry-delay", type=duration, help="Between a failure and its retry; 1h unless given.")
@click.option("--if-missing", is_flag=True, help="Leave a type that exists as it is, without complaint.")
@click.pass_obj
def add(
    context: Context,
    /,
    name: str,
    backend_name: str,
    description: str | None,
    max_queue_length: str | None,
    if_missing: bool,
    **options: Any,
) -> None:
    """Create the task type NAME."""
    row: dict[str, Any] = {"type": name, "backend_name": backend_name, "description": description or name}
    row |= {key: value for key, value in options.items() if value is not None}
    if max_queue_length is not None:
        row["max_queue_length"] = _bound(max_queue_length)
    if context.backend.get_task_type(name) is not None:
        if not if_missing:
            raise click.ClickException(f"task type {name!r} exists already, and stays as it is")
        click.echo(f"task type {name} exists already")
        return
    context.backend.create_task_type(cast(TaskType, row))
    click.echo(f"added task type {name}, queue {backend_name}")


@task_type.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def list_types(context: Context, as_json: bool) -> None:
    """List the task types."""
    types = context.backend.get_task_types()
    if as_json:
        document(types)
        return
    rows = [
        (
            row["type"],
            row["backend_name"],
            UNBOUNDED if row["max_queue_length"] is None else row["max_queue_length"],
            row["default_interval"],
            row["min_interval"],
            row["max_interval"],
            row["backoff_factor"],
            row["num_retries"],
            row["retry_delay"],
            row["description"],
        )
        for row in types
    ]
    table(None, _HEADERS, rows, empty="no task types yet: swh-sched-runner task-type add")


def _bound(text: str) -> int | None:
    if text == NONE:
        return None
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number and not `none`", param_hint="--max-queue-length") from None
