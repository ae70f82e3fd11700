"""``events``: what could not be read or recorded of what workers report."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swh_sched_runner.cli.context import Context
from swh_sched_runner.cli.output import details, document, printable, table, warn
from swh_sched_runner.cli.parameters import count, duration, integer

if TYPE_CHECKING:  # imported where they are used: --help needs no drivers
    from swh_sched_runner.insight.rejected import RejectedEvent
    from swh_sched_runner.services.listener.replay import Replayed

LIST_LIMIT = 100
BODY_SHOWN = 4_096  # characters; --raw has all of it


@click.group()
def events() -> None:
    """Deal with the events of workers."""


@events.group()
def rejected() -> None:
    """List, show, replay and drop events that could not be read or recorded."""


@rejected.command(name="list")
@click.option("--limit", type=count, default=LIST_LIMIT, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def list_events(context: Context, limit: int, as_json: bool) -> None:
    """List rejected events, the newest first, with the reason."""
    from swh_sched_runner.insight.rejected import list_rejected

    found = list_rejected(context.migrated_database, limit + 1)
    shown = found[:limit]
    if as_json:
        document([_facts(event) for event in shown])
    else:
        headers = ("id", "received (UTC)", "bytes", "kept", "reason")
        rows = [(event.id, event.received, event.size, event.kept, event.reason) for event in shown]
        table(None, headers, rows, empty="no rejected events", leave_out=("kept", "bytes"))
    if len(found) > limit:
        warn(f"there are more than {limit}: raise --limit")


@rejected.command()
@click.argument("event", metavar="ID", type=integer)
@click.option("--raw", type=click.Path(path_type=Path, allow_dash=True), help="Write the body to FILE (-: stdout).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def show(context: Context, event: int, raw: Path | None, as_json: bool) -> None:
    """Print the rejected event ID, or write its body to a file as it came."""
    from swh_sched_runner.insight.rejected import read_rejected

    if raw is not None and as_json:
        raise click.UsageError("--raw and --json exclude each other")
    found = read_rejected(context.migrated_database, event)
    body = found.body or b""
    if raw is not None:
        _write(raw, body)
    elif as_json:
        document(_facts(found) | _body(body))
    else:
        details(_facts(found), 12)
        text = printable(body.decode(errors="backslashreplace"))
        click.echo(f"\n{text[:BODY_SHOWN]}")
        if len(text) > BODY_SHOWN:
            warn("the body is longer: --raw FILE writes all that is kept of it")


@rejected.command()
@click.argument("ids", metavar="[ID]...", type=integer, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that there are now, the oldest first.")
@click.option("--body", type=click.Path(path_type=Path, allow_dash=True), help="FILE with the body of ID, corrected.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def replay(ctx: click.Context, ids: Sequence[int], everything: bool, body: Path | None, as_json: bool) -> None:
    """Apply rejected events after all, and say of each what became of it.

    Exits with 1 if any of them stays rejected.
    """
    from swh_sched_runner.insight.rejected import rejected_ids
    from swh_sched_runner.services.listener.replay import replay

    context: Context = ctx.obj
    _require_choice(bool(ids), everything)
    if body is not None and len(ids) != 1:
        raise click.UsageError("--body goes with one ID")
    given = None if body is None else _read(body)
    database = context.migrated_database
    stays, told = False, []
    for replayed in replay(database, rejected_ids(database, ids or None), given):
        stays = stays or replayed.stays
        if as_json:
            told.append(replayed)
        else:
            click.echo(f"{replayed.id}: {printable(_became(replayed))}")
    if as_json:
        document(told)
    if stays:
        ctx.exit(1)


@rejected.command()
@click.argument("ids", metavar="[ID]...", type=integer, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that there are.")
@click.option("--older-than", type=duration, metavar="DURATION", help="Those that were rejected before: 7d, 12h.")
@click.pass_obj
def drop(context: Context, ids: Sequence[int], everything: bool, older_than: timedelta | None) -> None:
    """Drop rejected events. Nothing of them is applied."""
    from swh_sched_runner.insight.rejected import drop_rejected

    _require_choice(bool(ids), everything, older_than is not None)
    dropped = drop_rejected(context.migrated_database, ids or None, older_than)
    click.echo(f"dropped {dropped} rejected event{'' if dropped == 1 else 's'}")


def _require_choice(*given: bool) -> None:
    if sum(given) != 1:
        choices = "IDs, --all" if len(given) == 2 else "IDs, --all, --older-than"
        raise click.UsageError(f"say which, by one of: {choices}")


def _facts(event: RejectedEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "received": event.received,
        "reason": event.reason,
        "size": event.size,
        "kept": event.kept,
        "whole": event.whole,
        "properties": dict(event.properties),
    }


def _body(body: bytes) -> dict[str, str]:
    """A body as JSON can hold it."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _became(replayed: Replayed) -> str:
    match replayed.outcome:
        case "applied":
            return _applied(replayed)
        case "foreign":
            return f"foreign, no run has the id {', '.join(replayed.foreign)}"
        case "nothing":
            return "it speaks of no task, nothing to apply"
        case "rejected":
            applied = f" ({_applied(replayed)})" if replayed.runs else ""
            return f"still rejected: {replayed.reason}{applied}"
        case "cut":
            return str(replayed.reason)
        case _:
            return "it was dropped or replayed meanwhile"


def _applied(replayed: Replayed) -> str:
    foreign = f"; {len(replayed.foreign)} of tasks that are no runs" if replayed.foreign else ""
    return f"applied to run{'' if len(replayed.runs) == 1 else 's'} {', '.join(replayed.runs)}{foreign}"


def _read(file: Path) -> bytes:
    try:
        with click.open_file(str(file), "rb") as stream:
            return bytes(stream.read())
    except OSError as error:
        raise click.FileError(str(file), error.strerror or str(error)) from error


def _write(file: Path, body: bytes) -> None:
    try:
        with click.open_file(str(file), "wb") as stream:
            stream.write(body)
    except OSError as error:
        raise click.FileError(str(file), error.strerror or str(error)) from error
