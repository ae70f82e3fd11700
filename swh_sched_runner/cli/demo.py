"""``demo``: all services at work on real git repositories, on private servers, in the terminal."""

from __future__ import annotations

import click

from swh_sched_runner.cli import web
from swh_sched_runner.cli.context import Context


@click.command()
@click.argument("sources", nargs=-1, metavar="[DIRECTORY_OR_URL]...")
@click.option(
    "--for", "run_seconds", type=click.FloatRange(0.1, 31_622_400), metavar="SECONDS", help="Stop after this time."
)
@web.port_option
@click.pass_obj
def demo(context: Context, sources: tuple[str, ...], run_seconds: float | None, web_port: int | None) -> None:
    """Watch the services work on real git repositories.

    Repositories are found below DIRECTORYs and at URLs, and are visited repeatedly. Without arguments, the demo creates
    a dozen, and adds commits for ten minutes. It uses no configured database or broker: its servers and data are in the
    data directory. Run the same command again to continue.
    """
    from swh_sched_runner.cli.demo_run import start  # not above: --help needs none of what it imports

    start(context, sources, run_seconds, web_port)
