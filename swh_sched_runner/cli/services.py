"""The long-running services: ``run``, ``listen``, ``visits``; and how each is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import click
import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.celery.heartbeats import HeartbeatConsumer
from swh_sched_runner.broker.celery.inspection import inspect
from swh_sched_runner.broker.celery.messages import SizeLimit
from swh_sched_runner.broker.factory import open_consumer, open_publisher
from swh_sched_runner.cli import web
from swh_sched_runner.cli.context import Context
from swh_sched_runner.db import migrate
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.listener.heartbeats import Heartbeats
from swh_sched_runner.services.listener.listener import Listener
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
    return {
        "runner": lambda: Runner(dispatch, publisher, settings.runner, broker.priority_queue, instruments),
        "listener": lambda: Listener(dispatch, consumer, settings.listener, instruments),
        "heartbeats": lambda: Heartbeats(
            Workers(context.database), partial(HeartbeatConsumer, app, broker), partial(inspect, app)
        ),
        "visits": lambda: VisitScheduler(dispatch, publisher, settings.visits, instruments),
    }


def supervise(context: Context, command: str, *names: str) -> None:
    """Run these services until told to stop."""
    instruments = Instruments()
    made = factories(context, instruments)
    supervisor = Supervisor({name: made[name] for name in names})
    log.info("running", service=names[0])
    with web.answering(context, command, supervisor, instruments):
        supervisor.run()


@click.command()
@click.option("--task-type", "task_types", multiple=True, metavar="TYPE", help="Only these types; may be repeated.")
@click.option("--once", is_flag=True, help="Dispatch what is due and fits now, and exit.")
@click.option("--period", "period_seconds", type=float, metavar="SECONDS", help="How often to look for due tasks.")
@click.option("--batch-size", type=int, metavar="TASKS", help="How many tasks to take at a time, at most.")
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
    """Dispatch due tasks to their queues, each within its limit."""
    context.flags |= {
        "runner.task_types": task_types or None,
        "runner.period_seconds": period_seconds,
        "runner.batch_size": batch_size,
        "web.port": web_port,
    }
    if not once:
        supervise(context, "run", "runner")
        return
    runner, heartbeat = factories(context)["runner"](), Heartbeat()
    try:
        while runner.run_once(heartbeat):
            pass
    finally:
        runner.close()


@click.command()
@click.option("--batch-size", type=int, metavar="EVENTS", help="How many messages to record at a time, at most.")
@web.port_option
@click.pass_obj
def listen(context: Context, batch_size: int | None, web_port: int | None) -> None:
    """Turn the events of workers into starts and ends of runs."""
    context.flags |= {"listener.batch_size": batch_size, "web.port": web_port}
    supervise(context, "listen", "listener", "heartbeats")


@click.command()
@web.port_option
@click.pass_obj
def visits(context: Context, web_port: int | None) -> None:
    """Choose the origins to visit next and dispatch their visits."""
    context.flags |= {"web.port": web_port}
    if not context.settings.visits:
        raise click.UsageError("no visit types are configured: name them in [visits.<type>] of the configuration")
    supervise(context, "visits", "visits")
