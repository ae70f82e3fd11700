"""The long-running services: ``run``, ``listen``, ``visits``, ``prune``; how each is put together, and the rescuer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import click
import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.lost import Lost
from swh_sched_runner.backend.tasks.retention import Retention
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.backend.workers.watched import WatchedLives
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.celery.inspection import held_by, inspect
from swh_sched_runner.broker.celery.messages import SizeLimit
from swh_sched_runner.broker.celery.results import stored
from swh_sched_runner.broker.factory import (
    has_dead_letters,
    open_consumer,
    open_dead_letters,
    open_heartbeats,
    open_inspector,
    open_marker,
    open_publisher,
)
from swh_sched_runner.cli import web
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.parameters import integer
from swh_sched_runner.db import migrate
from swh_sched_runner.exc import ConfigurationError, UnknownTaskType
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.dispatch.sender import Sender
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.listener.dead_letters import PREFETCH, DeadLetterReader
from swh_sched_runner.services.listener.heartbeats import Heartbeats
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.maintenance.retention import Pruner
from swh_sched_runner.services.registered import Registered
from swh_sched_runner.services.rescuer.leases import SenderLeases
from swh_sched_runner.services.rescuer.rescuer import BrokerAccess, Request, Rescuer
from swh_sched_runner.services.service import Heartbeat, Service
from swh_sched_runner.services.supervisor import Supervisor
from swh_sched_runner.services.visits.scheduler import VisitScheduler

log = structlog.get_logger(__name__)


def factories(context: Context, instruments: Instruments | None = None) -> Mapping[str, Callable[[], Service]]:
    """How to make each service anew; they share the pool of connections, the Celery application and ``instruments``."""
    settings, broker = context.settings, context.broker
    instruments = instruments or Instruments()
    context.database.run(migrate.require)
    app, dispatch = create_app(broker), Dispatch(context.database)
    limit = SizeLimit(settings.tasks.max_arguments_bytes, settings.tasks.max_arguments_depth)
    publisher = partial(open_publisher, app, broker, limit=limit)
    consumer = partial(open_consumer, app, broker, settings.listener.prefetch, settings.listener.max_event_bytes)
    services: dict[str, Callable[[], Service]] = {
        "runner": lambda: Runner(dispatch, publisher, settings.runner, broker.priority_queue, instruments),
        "listener": lambda: Registered(
            lambda: Listener(dispatch, consumer, settings.listener, instruments), dispatch.open_session
        ),
        "heartbeats": lambda: Heartbeats(
            Workers(context.database), partial(open_heartbeats, app, broker), partial(inspect, app)
        ),
        "visits": lambda: VisitScheduler(dispatch, publisher, settings.visits, instruments),
        "rescuer": lambda: Registered(lambda: make_rescuer(context, instruments), dispatch.open_session),
        "pruner": lambda: Pruner(Retention(context.database), settings.pruner, instruments),
    }
    if has_dead_letters(app):
        dead_letters = partial(open_dead_letters, app, broker, PREFETCH, settings.listener.max_event_bytes)
        services["dead-letters"] = lambda: DeadLetterReader(dispatch, dead_letters, settings.listener, instruments)
    return services


def make_rescuer(context: Context, instruments: Instruments, request: Request | None = None) -> Rescuer:
    """A rescuer with connections of its own."""
    broker, database = context.broker, context.database
    app, dispatch = create_app(broker), Dispatch(database)
    publisher = partial(open_publisher, app, broker)

    def stored_outcomes(backend_ids: Sequence[str]) -> Mapping[str, tuple[str, Mapping[str, Any], datetime | None]]:
        found = stored(app, backend_ids)
        return {run: (result.status, result.note, result.ended) for run, result in found.items()}

    access = BrokerAccess(
        open_inspector=partial(open_inspector, app),
        open_leases=lambda: SenderLeases(Sender(dispatch, publisher, "rescuer", Instruments())),
        open_marker=partial(open_marker, app, broker),
        ask=partial(held_by, app),
        stored=stored_outcomes if broker.result_backend is not None else None,
    )
    return Rescuer(
        Lost(database),
        WatchedLives(database),
        access,
        context.settings.rescuer,
        broker.priority_queue,
        instruments,
        request,
    )


def supervise(context: Context, command: str, *names: str) -> None:
    """Run these services, as far as the broker has a use for them, until told to stop."""
    instruments = Instruments()
    services = factories(context, instruments)
    supervisor = Supervisor({name: services[name] for name in names if name in services})
    log.info("running", service=names[0])
    with web.answering(context, command, supervisor, instruments):
        supervisor.run()


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
