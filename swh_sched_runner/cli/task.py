"""``task``: tasks and their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from swh_sched_runner.cli import task_operations
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import SHOWN_CHARACTERS, cell, details, document, json_text, table, warn
from swh_sched_runner.cli.parameters import count, integer, parse_arguments, timestamp
from swh_sched_runner.cli.task_conditions import error_option, failed_since_option, status_option
from swh_sched_runner.exc import UnknownTask, UnknownTaskType
from swh_sched_runner.insight.format import STATUS_WORDS
from swh_sched_runner.model import POLICIES, PRIORITIES, Task, TaskRun

LIST_LIMIT = 100
RUNS_SHOWN = 20


@click.group()
def task() -> None:
    """Add, list, show, change, run, disable and delete tasks."""


for _command in task_operations.COMMANDS:
    task.add_command(_command)


@task.command()
@click.argument("type_name", metavar="TYPE")
@click.argument("words", metavar="[ARGUMENT|KEY=VALUE]...", nargs=-1)
@click.option("--policy", type=click.Choice(POLICIES), default="recurring", show_default=True)
@click.option("--priority", type=click.Choice(PRIORITIES), help="Use the queue for tasks with a priority.")
@click.option("--next-run", type=timestamp, help="Due time: ISO 8601 (UTC), or +5m; default: now.")
@click.option("--json-arguments", is_flag=True, help="Parse every value as JSON; default: values are strings.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def add(
    context: Context,
    type_name: str,
    words: Sequence[str],
    policy: str,
    priority: str | None,
    next_run: datetime | None,
    json_arguments: bool,
    as_json: bool,
) -> None:
    """Create a task of TYPE, unless an equal one exists, and print it. It says so if one does."""
    try:
        arguments = parse_arguments(words, json_arguments)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    wanted = Task(
        type=type_name,
        arguments=arguments,
        policy=policy,
        priority=priority,
        next_run=next_run or datetime.now(UTC),
    )
    found, created = context.backend.add_task(wanted)
    if as_json:
        document({**found, "created": created})
        return
    if not created:
        click.echo(f"task {found['id']} exists already")
    _details(found)


@task.command(name="list")
@click.option("--id", "ids", type=integer, multiple=True, help="Only this id; repeatable.")
@click.option("--type", "task_type", help="Only this type.")
@status_option
@click.option("--priority", type=click.Choice(PRIORITIES))
@click.option("--policy", type=click.Choice(POLICIES))
@click.option("--before", type=timestamp, help="Only with a next run up to this time.")
@click.option("--after", type=timestamp, help="Only with a next run from this time on.")
@failed_since_option
@error_option
@click.option("--limit", type=count, default=LIST_LIMIT, show_default=True, help="Maximum number of tasks to list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def list_tasks(
    context: Context,
    /,
    ids: Sequence[int],
    failed_since: timedelta | None,
    error: str | None,
    limit: int,
    as_json: bool,
    **filters: Any,
) -> None:
    """List the tasks that meet all conditions, in order of id."""
    wanted = list(ids) or None
    if failed_since is not None or error is not None:
        failed = _failed(context, failed_since, error, filters)
        wanted = [task_id for task_id in failed if wanted is None or task_id in wanted]
    found = context.backend.search_tasks(task_id=wanted, limit=limit + 1, **filters)
    task_type = filters["task_type"]
    if not found and task_type is not None and context.backend.get_task_type(task_type) is None:
        raise UnknownTaskType(value=task_type)
    shown = found[:limit]
    if as_json:
        document(shown)
    else:
        headers = ("id", "type", "policy", "status", "priority", "next run (UTC)", "interval", "arguments")
        rows = [
            (
                row["id"],
                row["type"],
                row["policy"],
                STATUS_WORDS[row["status"]],
                row["priority"],
                row["next_run"],
                row["current_interval"],
                _call(row["arguments"]),
            )
            for row in shown
        ]
        table(None, headers, rows, empty="no tasks", leave_out=("interval", "policy", "priority", "next run (UTC)"))
    if len(found) > limit:
        warn(f"there are more than {limit} tasks: raise --limit, or add conditions")


def _failed(
    context: Context, failed_since: timedelta | None, error: str | None, filters: Mapping[str, Any]
) -> Sequence[int]:
    # Not above: --help needs no drivers.
    from swh_sched_runner.backend.tasks.operations import Conditions, TaskOperations

    conditions = Conditions(filters["task_type"], filters["status"], filters["before"], failed_since, error)
    return TaskOperations(context.migrated_database).select(conditions)


@task.command()
@click.argument("task_id", metavar="ID", type=integer)
@click.option("--runs", type=count, default=RUNS_SHOWN, show_default=True, help="Number of runs, the newest ones.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def show(context: Context, task_id: int, runs: int, as_json: bool) -> None:
    """Print the task ID and its runs, the newest last."""
    found = context.backend.get_tasks([task_id])
    if not found:
        raise UnknownTask(value=task_id)
    all_runs = context.backend.get_task_runs([task_id])
    newest = all_runs[max(len(all_runs) - runs, 0) :]
    if as_json:
        document({**found[0], "runs": newest})
        return
    _details(found[0])
    click.echo()
    headers = ("id", "status", "scheduled (UTC)", "started (UTC)", "ended (UTC)", "took", "message", "noted")
    of_all = f" (newest {len(newest)} of {len(all_runs)})" if len(newest) < len(all_runs) else ""
    table(
        f"runs{of_all}",
        headers,
        [_run_row(run) for run in newest],
        leave_out=("message", "scheduled (UTC)", "started (UTC)", "took"),
        most=SHOWN_CHARACTERS,
    )


def _details(row: Task) -> None:
    values = {
        "id": row["id"],
        "type": row["type"],
        "arguments": _call(row["arguments"]),
        "policy": row["policy"],
        "status": STATUS_WORDS[row["status"]],
        "priority": row["priority"],
        "next run": f"{cell(row['next_run'])} UTC",
        "interval": row["current_interval"],
        "retries left": row["retries_left"],
    }
    details(values, 13)


def _run_row(run: TaskRun) -> tuple[Any, ...]:
    started, ended = run["started"], run["ended"]
    return (
        run["id"],
        run["status"],
        run["scheduled"],
        started,
        ended,
        _took(started, ended),
        run["backend_id"],
        run["metadata"] or None,
    )


def _took(started: Any, ended: Any) -> timedelta | None:
    """To the millisecond. Two processes of a worker tell the times: a short task may seem to end before it began."""
    if not isinstance(started, datetime) or not isinstance(ended, datetime):
        return None
    return max(timedelta(milliseconds=(ended - started) // timedelta(milliseconds=1)), timedelta(0))


def _call(arguments: Any) -> str:
    """The arguments as ``task add --json-arguments`` takes them; arguments of another shape as JSON."""
    given = arguments if isinstance(arguments, dict) else {"args": None}
    args, kwargs = given.get("args", []), given.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return json_text(arguments)
    words = [json_text(value) for value in args]
    words += [f"{key}={json_text(value)}" for key, value in kwargs.items()]
    return " ".join(words) or "-"
