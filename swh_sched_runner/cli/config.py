"""``config``: the settings."""

from __future__ import annotations

import click

from swh_sched_runner.cli.command import OPTION_NAMES
from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, printable
from swh_sched_runner.config import COMMAND_LINE, as_toml, shown


@click.group()
def config() -> None:
    """Show the configuration."""


@config.command()
@click.option("--sources", "with_sources", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def show(context: Context, with_sources: bool, as_json: bool) -> None:
    """Print the settings in force as TOML, which --config reads. Passwords are hidden."""
    _ = context.settings  # which has the passwords of files, or says what is wrong with them
    settings, by_option = context.settings_and_sources()
    found = {name: [_named(name, source) for source in sources] for name, sources in by_option.items()}
    if as_json:
        values = shown(settings)
        document({"settings": values, "sources": found} if with_sources else values)
        return
    for line in as_toml(settings, found if with_sources else None):
        click.echo(printable(line))


def _named(option: str, source: str) -> str:
    return OPTION_NAMES[option] if source == COMMAND_LINE.name else source
