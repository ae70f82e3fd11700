"""``task-type``: task types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, cast

import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import UNLIMITED, cell, details, document, table, told_paused, told_resumed
from swh_sched_runner.cli.parameters import cut, duration, duration_or_none, integer, limit, operator
from swh_sched_runner.config import queue_name
from swh_sched_runner.exc import UnknownTaskType
from swh_sched_runner.model import LONGEST_QUEUE, TaskType

_COLUMNS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "type": itemgetter("type"),
    "queue": itemgetter("backend_name"),
    "limit": lambda row: UNLIMITED if row["max_queue_length"] is None else row["max_queue_length"],
    "interval": itemgetter("default_interval"),
    "min": itemgetter("min_interval"),
    "max": itemgetter("max_interval"),
    "factor": itemgetter("backoff_factor"),
    "retries": itemgetter("num_retries"),
    "retry delay": itemgetter("retry_delay"),
    "max in flight": itemgetter("max_in_flight"),
    "tasks/s": itemgetter("rate_limit"),
    "max run seconds": itemgetter("max_run_seconds"),
    "keep runs": itemgetter("keep_runs"),
    "paused (UTC)": itemgetter("pause"),
    "description": itemgetter("description"),
}
# On a narrow terminal, the first one first.
_LEAVE_OUT = (
    *("description", "retry delay", "factor", "min", "max", "keep runs", "max run seconds", "retries"),
    *("tasks/s", "max in flight", "interval", "limit"),
)
_CONTROLS = ("max_in_flight", "rate_limit", "pause", "max_run_seconds", "keep_runs")


@click.group(name="task-type")
def task_type() -> None:
    """Add, list, pause and limit task types."""


@task_type.command()
@click.argument("name")
@click.option("--backend-name", required=True, help="Name of the Celery task and of its queue.")
@click.option("--description", help="What tasks of this type do.")
@click.option("--default-interval", type=duration, help="Interval of a new recurring task, such as 1d.")
@click.option("--min-interval", type=duration, help="Shortest interval.")
@click.option("--max-interval", type=duration, help="Longest interval.")
@click.option(
    "--backoff-factor",
    type=float,
    help="Divides the interval after an eventful run, multiplies it after an uneventful one.",
)
@click.option("--max-queue-length", help="Limit of the queue; default 1000, `none` for no limit.")
@click.option("--num-retries", type=integer, help="Number of retries after failures.")
@click.option("--retry-delay", type=duration, help="Delay before a retry; default 1h.")
@click.option("--if-missing", is_flag=True, help="If the type exists, leave it unchanged and succeed.")
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
    shortest, longest = options["min_interval"], options["max_interval"]
    if shortest is not None and longest is not None and shortest > longest:
        raise click.UsageError(f"--min-interval {cell(shortest)} is above --max-interval {cell(longest)}")
    _require_queues(context, backend_name)
    row: dict[str, Any] = {"type": name, "backend_name": backend_name, "description": description or name}
    row |= {key: value for key, value in options.items() if value is not None}
    if max_queue_length is not None:
        row["max_queue_length"] = limit(max_queue_length, "--max-queue-length")
    if context.backend.get_task_type(name) is not None:
        if not if_missing:
            raise click.ClickException(f"task type {name!r} exists already and was not changed")
        click.echo(f"task type {name} exists already")
        return
    context.backend.create_task_type(cast(TaskType, row))
    click.echo(f"added task type {name}, queue {backend_name}")


def _require_queues(context: Context, backend_name: str) -> None:
    """Refuse a name whose queue for tasks with a priority no broker takes."""
    queue = queue_name(backend_name, context.settings.broker.priority_queue, priority=True)
    if (size := len(queue.encode())) > LONGEST_QUEUE:
        raise click.BadParameter(
            f"its queue for tasks with a priority, {cut(queue)}, has {size} bytes; a queue may have {LONGEST_QUEUE}",
            param_hint="--backend-name",
        )


@task_type.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def list_types(context: Context, as_json: bool) -> None:
    """List the task types."""
    types = _read(context)
    if as_json:
        document(types)
    else:
        rows = [[column(row) for column in _COLUMNS.values()] for row in types]
        empty = "no task types yet: swh-sched-runner task-type add"
        table(None, tuple(_COLUMNS), rows, empty=empty, leave_out=_LEAVE_OUT)


@task_type.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def show(context: Context, name: str, as_json: bool) -> None:
    """Print the task type NAME."""
    found = next((row for row in _read(context) if row["type"] == name), None)
    if found is None:
        raise UnknownTaskType(value=name)
    if as_json:
        document(found)
        return
    details({header: column(found) for header, column in _COLUMNS.items()}, 16)


@task_type.command()
@click.argument("name")
@click.option("--reason", help="Reason, shown by `task-type list` and `status`.")
@click.option("--by", help="Who pauses it; default: user@host.")
@click.pass_obj
def pause(context: Context, name: str, reason: str | None, by: str | None) -> None:
    """Stop taking tasks of the type NAME; messages that are already in the outbox are still sent."""
    before = context.backend.pause_task_type(name, operator() if by is None else by, reason)
    told_paused(f"task type {name}", before)


@task_type.command()
@click.argument("name")
@click.pass_obj
def resume(context: Context, name: str) -> None:
    """Take tasks of the type NAME again."""
    told_resumed(f"task type {name}", context.backend.resume_task_type(name))


# How the text of each option of `task-type set` becomes the value of the argument that it is named after.
_SETTABLE: Mapping[str, Callable[[str, str], Any]] = {
    "max_queue_length": limit,
    "max_in_flight": limit,
    "rate_limit": partial(limit, kind=float),
    "max_run_seconds": partial(limit, kind=float),
    "keep_runs": duration_or_none,
}


@task_type.command(name="set")
@click.argument("name")
@click.option("--max-queue-length", metavar="N|none", help="Limit of its queue.")
@click.option("--max-in-flight", metavar="N|none", help="Maximum number of its tasks in flight.")
@click.option("--rate-limit", metavar="N|none", help="Maximum number of its tasks dispatched per second, such as 0.5.")
@click.option("--max-run-seconds", metavar="N|none", help="Maximum duration of a run, from its start.")
@click.option("--keep-runs", metavar="DURATION|none", help="How long its ended runs are kept, such as 90d.")
@click.pass_obj
def set_options(context: Context, /, name: str, **options: str | None) -> None:
    """Change the type NAME while services are running; `none` removes a limit."""
    given = {key: text for key, text in options.items() if text is not None}
    if not given:
        *others, last = (_option(key) for key in _SETTABLE)
        raise click.UsageError(f"nothing to set: give {', '.join(others)} or {last}")
    values = {key: _SETTABLE[key](text, _option(key)) for key, text in given.items()}
    context.backend.set_task_type_limits(name, **values)
    click.echo(f"task type {name}: " + ", ".join(f"{key} {text}" for key, text in given.items()))


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _read(context: Context) -> list[dict[str, Any]]:
    """The task types, with their limits and pauses."""
    types, controls = context.backend.get_task_types(), context.backend.get_controls()
    by_type = {row.type: row for row in controls.task_types}
    return [
        {
            **row,
            **{key: getattr(by_type.get(row["type"]), key, None) for key in _CONTROLS},
        }
        for row in types
    ]
