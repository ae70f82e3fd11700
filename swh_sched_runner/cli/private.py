"""The private servers of ``up`` and ``demo``: started where none is configured, what they left behind recovered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.redis import restore
from swh_sched_runner.cli.assembly import factories
from swh_sched_runner.cli.context import Context
from swh_sched_runner.db import migrate
from swh_sched_runner.embedded import directory, process
from swh_sched_runner.services.maintenance.restart import recover
from swh_sched_runner.services.service import Heartbeat


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
