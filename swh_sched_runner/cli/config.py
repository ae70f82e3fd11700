"""``config``: the settings."""

from __future__ import annotations

import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import document, printable
from swh_sched_runner.config import shown


@click.group()
def config() -> None:
    """Show the configuration."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def show(context: Context, as_json: bool) -> None:
    """Print the settings in force, with passwords hidden."""
    values = shown(context.settings)
    if as_json:
        document(values)
    else:
        for name, value in _flat(values, ""):
            click.echo(f"{name} = {printable(str(value))}")


def _flat(values: dict[str, object], prefix: str) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(f"{prefix}{key}", value)]
    return rows
