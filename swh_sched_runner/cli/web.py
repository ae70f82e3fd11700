"""Metrics and health checks of the services over HTTP."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click
import structlog

from swh_sched_runner.cli.context import Context
from swh_sched_runner.config import WebSettings
from swh_sched_runner.exc import ConfigurationError

if TYPE_CHECKING:  # imported where they are used: --help needs none of them
    from swh_sched_runner.services.instruments import Instruments
    from swh_sched_runner.services.supervisor import Supervisor
    from swh_sched_runner.web.server import Pages, Server

# One each, so that all of them can run on one host. Those of Prometheus' list that nobody is likely to run beside us:
# https://github.com/prometheus/prometheus/wiki/Default-port-allocations has no free ones any more.
PORTS = {"up": 9460, "run": 9461, "listen": 9462, "visits": 9463, "prune": 9465, "rescue": 9466}

port_option = click.option(
    "--web-port",
    "web_port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help="Port for metrics and health checks; 0: none.",
)

log = structlog.get_logger(__name__)


@contextmanager
def answering(context: Context, command: str, supervisor: Supervisor, instruments: Instruments) -> Iterator[None]:
    """While entered, serve metrics and health checks, unless switched off.

    Raises ``ConfigurationError`` if a configured address can't be used; if the default one can't, only logs a warning.
    """
    server = _listen(context.settings.web, command, pages(context, supervisor, instruments))
    if server is None:
        yield
        return
    with server:
        log.info("metrics and health", url=f"{server.url}/metrics")
        yield


def pages(context: Context, supervisor: Supervisor, instruments: Instruments) -> Pages:
    """What is answered at which path."""
    from swh_sched_runner.broker.celery.app import connect, create_app
    from swh_sched_runner.db import version
    from swh_sched_runner.web import health, metrics

    app, database = create_app(context.broker), context.database
    dependencies: dict[str, Callable[[], object]] = {
        "database": lambda: database.run(version.require),
        "broker": lambda: connect(app).release(),
        **{name: partial(supervisor.require_working, name) for name in supervisor.names},
    }
    return {
        "/metrics": metrics.page(instruments.registry, database),
        "/healthz": health.alive(supervisor.silent),
        "/readyz": health.ready(dependencies, supervisor.standing_by),
    }


def _listen(settings: WebSettings, command: str, answers: Pages) -> Server | None:
    from swh_sched_runner.web.server import Server

    port = PORTS.get(command, 0) if settings.port is None else settings.port
    if port == 0:
        return None
    try:
        return Server(settings.host, port, answers, settings.allowed_hosts)
    except (OSError, UnicodeError) as error:
        code, said = (error.errno, error.strerror) if isinstance(error, OSError) else (None, str(error))
        option = "web.port" if code in (errno.EADDRINUSE, errno.EACCES) else "web.host"
        reason = f"can't listen on {settings.host}:{port}: {said or error}"
        if settings != WebSettings():
            raise ConfigurationError(reason=f"{option}: {reason}") from error
        log.warning(
            "no metrics and no health checks", reason=reason, option=f"{option}; web.port = 0 switches them off"
        )
        return None
