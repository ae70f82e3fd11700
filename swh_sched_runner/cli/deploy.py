"""``deploy``: the files that run the program as a service."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files as packaged_files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

# What a checkout has beside them is for those who read it.
LEFT_OUT = ("README.md", "__pycache__")


@click.group()
def deploy() -> None:
    """Write the files that run it as a service."""


@deploy.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Replace files that were changed since, or are of another version.")
def files(directory: Path, force: bool) -> None:
    """Write units, sysusers.d, tmpfiles.d, the example configuration and alerts to DIRECTORY.

    Nothing is installed: deploy/README.md, or docs/how-to/systemd.md, says where each of them goes.
    """
    wanted = {directory / path: content for path, content in _below(deploy_folder())}
    try:
        changed = [path for path, content in wanted.items() if path.exists() and path.read_bytes() != content]
        if changed and not force:
            raise click.ClickException(f"{changed[0]} is there and differs: --force replaces it; nothing was written")
        for path, content in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            click.echo(path)
    except OSError as error:
        raise click.FileError(str(error.filename or directory), error.strerror or str(error)) from error


def deploy_folder() -> Traversable:
    """The folder ``deploy``: inside the installed package, else beside it in a checkout."""
    packaged = packaged_files("swh_sched_runner") / "deploy"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "deploy"


def _below(folder: Traversable, path: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name in LEFT_OUT:
            continue
        if entry.is_dir():
            yield from _below(entry, f"{path}{entry.name}/")
        else:
            yield f"{path}{entry.name}", entry.read_bytes()
