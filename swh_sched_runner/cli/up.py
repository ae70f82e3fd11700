"""``up``: all services in one process, and the servers that are not configured beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.redis import restore
from swh_sched_runner.cli import web
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.services import factories
from swh_sched_runner.db import migrate
from swh_sched_runner.embedded import directory, process
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.maintenance.restart import recover
from swh_sched_runner.services.service import Heartbeat
from swh_sched_runner.services.supervisor import Supervisor

log = structlog.get_logger(__name__)


@click.command()
@web.port_option
@click.pass_obj
def up(context: Context, web_port: int | None) -> None:
    """Run all services in one process.

    If no database or no broker is configured, a private one is started, with its data in the data directory.
    """
    context.flags |= {"web.port": web_port}
    instruments = Instruments()
    with servers(context) as private:
        services = dict(factories(context, instruments))
        if not context.settings.visits:
            del services["visits"]
        log.info("running", services=",".join(services))
        supervisor = Supervisor(services, maintain=private.revive if private else None)
        with web.answering(context, "up", supervisor, instruments):
            supervisor.run()


@contextmanager
def servers(context: Context, patience_seconds: float = 0.0) -> Iterator[directory.Servers | None]:
    """The servers that are not configured, started and ready; runs that dead processes left open are recovered first.

    Workers get ``patience_seconds`` to end: give it where they end with the servers.
    """
    settings = context.settings
    database, broker = settings.database.url is None, settings.broker.url is None
    if not database and not broker:
        yield None
        return
    with directory.servers(context.data_directory, database=database, broker=broker) as private:
        if database:
            migrate.upgrade(context.database.engine)
        if database and broker:
            recover_open_runs(context, patience_seconds)
        yield private


def recover_open_runs(context: Context, patience_seconds: float = 0.0) -> None:
    """Recover runs that dead processes left open: everything died with the servers, except workers that are alive.

    Workers get ``patience_seconds`` to end. Only for private servers, and while no service of ours dispatches.
    """
    app = create_app(context.broker)
    process.wait_until(lambda: not directory.workers_alive(context.data_directory), patience_seconds)
    workers_alive = directory.workers_alive(context.data_directory)
    if not workers_alive:
        restore.restore_unacked(app, context.broker)
    listener = factories(context)["listener"]()
    try:
        heartbeat = Heartbeat()
        while listener.run_once(heartbeat):  # what was queued is evidence: apply it first
            pass
    finally:
        listener.close()
    recover(
        Dispatch(context.database),
        lambda queues: restore.waiting_ids(app, queues),
        context.broker.priority_queue,
        workers_alive=workers_alive,
    )
