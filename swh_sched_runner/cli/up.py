"""``up``: all services in one process, and the servers that are not configured beside them."""

from __future__ import annotations

import click
import structlog

from swh_sched_runner.cli import web
from swh_sched_runner.cli.context import Context

log = structlog.get_logger(__name__)


@click.command()
@web.port_option
@click.pass_obj
def up(context: Context, web_port: int | None) -> None:
    """Run all services in one process.

    If no database or no broker is configured, a private one is started, with its data in the data directory.
    """
    from swh_sched_runner.cli.assembly import factories  # not above, as all that follows: --help needs no drivers
    from swh_sched_runner.cli.private import servers
    from swh_sched_runner.services.instruments import Instruments
    from swh_sched_runner.services.supervisor import Supervisor

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
