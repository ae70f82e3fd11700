"""What commands print: tables and lines, or one JSON document for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import compress
from shutil import get_terminal_size
from typing import IO, Any
from uuid import UUID

import attrs
import click
import msgspec
import structlog

from swh_sched_runner.cli import layout
from swh_sched_runner.config import mask
from swh_sched_runner.insight.format import duration, timestamp
from swh_sched_runner.model import Pause

log = structlog.get_logger(__name__)

NOTHING = "-"
# Of a text in a table, and of one that is shown alone.
CELL_CHARACTERS = 60
SHOWN_CHARACTERS = 2_000
# Where the context of a command keeps what -o was.
OUTPUT = "swh_sched_runner.output"
UNLIMITED = "unlimited"
# Levels of lists and objects in a document.
DEEPEST = 100


def wants_colour(stream: IO[str]) -> bool:
    """Whether colours belong on ``stream``: on a terminal, unless NO_COLOR or TERM say otherwise."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str, keep: str = "") -> str:
    """``text`` with control characters escaped: what comes from a database must not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def document(value: Any) -> None:
    """Print one JSON document: timestamps as ISO 8601 in UTC, durations in seconds."""
    click.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def table(
    title: str | None,
    headers: Sequence[str],
    rows: Sequence[Sequence[Any]],
    empty: str = "none",
    *,
    leave_out: Sequence[str] = (),
    most: int = CELL_CHARACTERS,
) -> None:
    """Print a table, a line for each row, with texts of ``most`` characters.

    On a terminal, columns that say nothing are left out, and so are those of ``leave_out``, the first one first, until
    the rest fits. Elsewhere, and with ``-o wide``, no column is.
    """
    colour, wide = wants_colour(sys.stdout), is_wide()
    if title:
        click.echo(click.style(title, bold=True) if colour else title)
    if not rows:
        click.echo(f"  {empty}")
        return
    most = SHOWN_CHARACTERS if wide else most
    cells = [[layout.cut(cell(value), most) for value in row] for row in rows]
    if not sys.stdout.isatty() or wide:
        lines = layout.plain(headers, cells)
    else:
        says = [any(row[n] != NOTHING for row in cells) for n in range(len(headers))]
        kept = [[*compress(row, says)] for row in (headers, *cells)]
        lines = layout.fitted(kept[0], kept[1:], get_terminal_size().columns, leave_out)
    first = next(lines)
    click.echo(click.style(first, bold=True) if colour else first)
    for line in lines:
        click.echo(line)


def details(values: Mapping[str, Any], width: int) -> None:
    """Print names and values, a line each, with texts of ``SHOWN_CHARACTERS``; says so where one is longer."""
    was_cut = False
    for name, value in values.items():
        text = cell(value)
        was_cut = was_cut or len(text) > SHOWN_CHARACTERS
        click.echo(f"{name:<{width}} {layout.cut(text, SHOWN_CHARACTERS)}")
    if was_cut:
        warn(f"long texts are cut to {SHOWN_CHARACTERS:,} characters: --json prints all of them")


def is_wide() -> bool:
    """Whether ``-o wide`` was given."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and ctx.meta.get(OUTPUT) == "wide"


def cell(value: Any) -> str:
    """A value as people read it."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case timedelta():
            return duration(value)
        case datetime():
            return timestamp(value)
        case Pause(since, by, reason):
            return cell(since) + (printable(f" by {by}") if by else "") + (printable(f": {reason}") if reason else "")
        case str():
            return printable(value) or '""'
        case dict() | list():
            return printable(json_text(value))
        case _:
            return printable(str(value))


def json_text(value: Any) -> str:
    """A value as JSON in one line."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def told_paused(thing: str, before: Pause | None) -> None:
    """Say that a thing is paused; ``before`` is the pause that it had already."""
    click.echo(f"paused {thing}" if before is None else f"{thing} is already paused, since {cell(before)}")


def told_resumed(thing: str, ended: Pause | None) -> None:
    """Say that a thing is not paused; ``ended`` is the pause that it had."""
    click.echo(f"{thing} is not paused" if ended is None else f"resumed {thing}, paused since {cell(ended)}")


def warn(text: str) -> None:
    """Say something on stderr, passwords hidden: one line for people, or a line of the log where that is asked for."""
    from swh_sched_runner.cli import logs  # which needs this module itself

    line = " ".join(part.strip() for part in text.split("\n") if part.strip())
    if logs.as_lines():
        log.warning(line)
    else:
        click.echo(printable(mask(line)), err=True)


def _plain(value: Any, depth: int = 0) -> Any:
    """What JSON can hold in place of a value; numbers that it can't, and what lies too deep for programs, are texts."""
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            seconds = value.total_seconds()
            return int(seconds) if seconds == int(seconds) else seconds
        case UUID():
            return str(value)
        case bytes():
            return value.hex()
        case _ if attrs.has(type(value)):
            return _plain(attrs.asdict(value, recurse=False), depth)
        case _ if depth >= DEEPEST:
            return msgspec.json.encode(value).decode()
        case set() | frozenset():
            return sorted(value)
        case dict():
            return {key: _plain(inner, depth + 1) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner, depth + 1) for inner in value]
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")
