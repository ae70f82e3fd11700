"""The long-running services: ``run``, ``listen``, ``visits``, ``prune``; and how other commands make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import click
import structlog

from swh_sched_runner.cli import web
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.parameters import integer
from swh_sched_runner.exc import ConfigurationError, UnknownTaskType

if TYPE_CHECKING:
    from swh_sched_runner.services.instruments import Instruments
    from swh_sched_runner.services.rescuer.rescuer import Rescuer
    from swh_sched_runner.services.rescuer.selection import Request
    from swh_sched_runner.services.service import Service

log = structlog.get_logger(__name__)


# What imports drivers of the database and of the broker is imported when a service is made.


def factories(context: Context, instruments: Instruments | None = None) -> Mapping[str, Callable[[], Service]]:
    """See ``assembly.factories``."""
    from swh_sched_runner.cli import assembly

    return assembly.factories(context, instruments)


def make_rescuer(context: Context, instruments: Instruments, request: Request | None = None) -> Rescuer:
    """See ``assembly.make_rescuer``."""
    from swh_sched_runner.cli import assembly

    return assembly.make_rescuer(context, instruments, request)


def supervise(context: Context, command: str, *names: str) -> None:
    """See ``assembly.supervise``."""
    from swh_sched_runner.cli import assembly

    assembly.supervise(context, command, *names)


@click.command()
@click.option("--task-type", "task_types", multiple=True, metavar="TYPE", help="Dispatch only this type; repeatable.")
@click.option("--once", is_flag=True, help="Dispatch the due tasks that fit into their queues, then exit.")
@click.option(
    "--period", "period_seconds", type=float, metavar="SECONDS", help="Look for due tasks at least this often."
)
@click.option("--batch-size", type=integer, metavar="TASKS", help="Maximum number of tasks to take at a time.")
@web.port_option
@click.pass_obj
def run(
    context: Context,
    task_types: tuple[str, ...],
    once: bool,
    period_seconds: float | None,
    batch_size: int | None,
    web_port: int | None,
) -> None:
    """Dispatch due tasks to their queues, within the limit of each queue."""
    context.flags |= {
        "runner.task_types": task_types or None,
        "runner.period_seconds": period_seconds,
        "runner.batch_size": batch_size,
        "web.port": web_port,
    }
    for unknown in _unknown(context, task_types):
        if once:
            raise UnknownTaskType(value=unknown)
        log.warning("there is no such task type yet", task_type=unknown)
    if not once:
        supervise(context, "run", "runner")
        return
    from swh_sched_runner.services.service import Heartbeat

    runner, heartbeat = factories(context)["runner"](), Heartbeat()
    try:
        while runner.run_once(heartbeat):
            pass
    finally:
        runner.close()


def _unknown(context: Context, task_types: Sequence[str]) -> list[str]:
    if not task_types:
        return []
    known = {task_type["type"] for task_type in context.backend.get_task_types()}
    return [name for name in task_types if name not in known]


@click.command()
@click.option("--batch-size", type=integer, metavar="MESSAGES", help="Maximum number of messages to record at a time.")
@web.port_option
@click.pass_obj
def listen(context: Context, batch_size: int | None, web_port: int | None) -> None:
    """Record starts and ends of runs from the events of workers."""
    context.flags |= {"listener.batch_size": batch_size, "web.port": web_port}
    supervise(context, "listen", "listener", "dead-letters", "heartbeats")


@click.command()
@web.port_option
@click.pass_obj
def visits(context: Context, web_port: int | None) -> None:
    """Choose origins to visit and dispatch their visits."""
    context.flags |= {"web.port": web_port}
    if not context.settings.visits:
        raise ConfigurationError(reason="no visit types are configured: add a table [visits.<type>]")
    supervise(context, "visits", "visits")


@click.command()
@web.port_option
@click.pass_obj
def prune(context: Context, web_port: int | None) -> None:
    """Delete ended runs that are older than their task type keeps them (`task-type set NAME --keep-runs`)."""
    context.flags |= {"web.port": web_port}
    supervise(context, "prune", "pruner")
