"""``worker``: a Celery worker for the configured broker."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click
import structlog

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, table
from swh_sched_runner.config import queue_name
from swh_sched_runner.insight.format import duration

if TYPE_CHECKING:  # imported where they are used: --help needs no drivers
    from swh_sched_runner.insight.workers import WorkerLife

log = structlog.get_logger(__name__)


@click.group()
def worker() -> None:
    """Celery workers."""


@worker.command()
@click.option("--include", "-I", "modules", multiple=True, metavar="MODULE", help="Module with tasks; repeatable.")
@click.option(
    "--queue",
    "-Q",
    "queues",
    multiple=True,
    metavar="QUEUE",
    help="Queue to consume; repeatable; default: those of its tasks.",
)
@click.option(
    "--concurrency", "-c", type=click.IntRange(1), metavar="N", help="Number of child processes; default: one per core."
)
@click.option("--hostname", "-n", metavar="NAME", help="Name of the worker, such as worker1@%h.")
@click.pass_obj
def start(
    context: Context,
    modules: tuple[str, ...],
    queues: tuple[str, ...],
    concurrency: int | None,
    hostname: str | None,
) -> None:
    """Start a worker that executes the tasks of MODULEs and reports to the listener.

    Modules are also looked up in the current directory. They define tasks with celery.shared_task. The worker consumes
    the queues of the task types whose Celery task they define.
    """
    from swh_sched_runner.broker.celery.app import create_app, task_names
    from swh_sched_runner.embedded import directory

    app = create_app(context.broker)
    app.set_current()
    app.set_default()
    app.conf.worker_hijack_root_logger = False
    sys.path.insert(0, os.getcwd())
    try:
        known = task_names(app, modules)
    except ModuleNotFoundError as error:
        raise click.UsageError(f"--include: {error}; looked in {os.getcwd()} and in what is installed") from error
    wanted = queues or _queues_of_types(context, known)
    logging.getLogger("celery").setLevel(context.settings.log.level.upper())
    arguments = ["worker", "--task-events", "--without-gossip", "--without-mingle"]
    arguments += ["--loglevel", context.settings.log.level, "--queues", ",".join(wanted)]
    arguments += ["--concurrency", str(concurrency)] if concurrency else []
    arguments += ["--hostname", hostname] if hostname else []
    with ExitStack() as stack:
        if context.settings.broker.url is None:
            stack.enter_context(directory.worker_lock(context.data_directory))
        context.close()  # forked children must not share the pool's connections
        app.worker_main(arguments)


def _queues_of_types(context: Context, known: Collection[str]) -> list[str]:
    """The queues of the task types whose tasks are known, those of tasks with priority included."""
    types = context.backend.get_task_types()
    if not types:
        raise click.ClickException("there are no task types: add one with `task-type add`, or give --queue")
    names = sorted({task_type["backend_name"] for task_type in types})
    served = [name for name in names if name in known]
    if not served:
        raise click.UsageError(
            f"no --include defines a task named {' or '.join(names)}: give the module that does, or --queue"
        )
    if len(served) < len(names):
        # A worker that takes messages of tasks that it does not know makes their runs fail.
        log.info("queues left to other workers", queues=",".join(sorted(set(names) - set(served))))
    priority = [queue_name(name, context.broker.priority_queue, priority=True) for name in served]
    return list(dict.fromkeys([*priority, *served]))


@worker.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Also lives that are over, as long as they are kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def list_workers(context: Context, everything: bool, as_json: bool) -> None:
    """List workers' lives, a run of a worker process each, and what each executes.

    offset: how late heartbeats arrive by the worker's own clock, in seconds; "!" where that is more than 5. missing:
    executions that the worker began and whose task-started did not come.
    """
    from swh_sched_runner.insight import workers

    found = workers.list_workers(context.migrated_database, everything=everything)
    if as_json:
        document(found)
        return
    headers = ("worker", "pid", "state", "online (UTC)", "last sign (UTC)", "pool", "queues", "executes", "offset")
    leave_out = ("offset", "pool", "online (UTC)", "pid", "queues", "missing", "last sign (UTC)")
    table(None, (*headers, "missing"), [_row(life) for life in found], leave_out=leave_out)


@worker.command()
@click.argument("hostname", metavar="HOST")
@click.option("--force", is_flag=True, help="Even while it shows signs of life.")
@click.pass_obj
def forget(context: Context, hostname: str, force: bool) -> None:
    """Say that the worker HOST is gone for good, so that what it executed counts as lost.

    HOST is Celery's name of the worker, as `worker list` shows it. For what no evidence shows: a solo worker whose
    machine is gone.
    """
    from swh_sched_runner.insight import workers

    lives = workers.forget_worker(context.migrated_database, hostname, force=force)
    click.echo(f"forgot worker {hostname}: {lives} {'life' if lives == 1 else 'lives'}")


def _row(life: WorkerLife) -> tuple[object, ...]:
    executing = ", ".join(f"{run.task_type} {run.task} for {duration(run.duration)}" for run in life.executing)
    offset = life.clock_offset_seconds
    return (
        life.hostname,
        life.pid,
        life.state,
        life.online,
        life.last_sign,
        life.pool,
        None if life.queues is None else ",".join(life.queues),
        executing or None,
        None if offset is None else f"{offset:.1f}" + ("!" if life.clock_is_off else ""),
        life.missing_events,
    )
