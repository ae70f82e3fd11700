"""How each service is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.lost import Lost
from swh_sched_runner.backend.tasks.retention import Retention
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.backend.workers.watched import WatchedLives
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.celery.inspection import inspect, query_tasks
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
from swh_sched_runner.db import version
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.dispatch.sender import Sender
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.listener.dead_letters import PREFETCH, DeadLetterReader
from swh_sched_runner.services.listener.heartbeats import Heartbeats
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.maintenance.retention import Pruner
from swh_sched_runner.services.registered import Registered
from swh_sched_runner.services.rescuer.leases import SenderLeases
from swh_sched_runner.services.rescuer.rescuer import BrokerAccess, Rescuer
from swh_sched_runner.services.rescuer.selection import Request
from swh_sched_runner.services.service import Service
from swh_sched_runner.services.supervisor import Supervisor
from swh_sched_runner.services.visits.scheduler import VisitScheduler

log = structlog.get_logger(__name__)


def factories(context: Context, instruments: Instruments | None = None) -> Mapping[str, Callable[[], Service]]:
    """How to make each service anew; they share the pool of connections, the Celery application and ``instruments``."""
    settings, broker = context.settings, context.broker
    instruments = instruments or Instruments()
    context.database.run(version.require)
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
        ask=partial(query_tasks, app),
        inspect=partial(inspect, app),
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
