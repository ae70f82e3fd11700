"""What commands print: tables and lines, or one JSON document for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, Any
from uuid import UUID

import attrs
import click
import msgspec
import structlog
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swh_sched_runner.config import mask
from swh_sched_runner.insight.format import duration, timestamp
from swh_sched_runner.model import Pause

log = structlog.get_logger(__name__)

NOTHING = "-"
KEPT_WHOLE = 10  # a word up to that length, such as a date, is not folded
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


def table(title: str | None, headers: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "none") -> None:
    """Print a table. Without a terminal it is plain columns, whole whatever their width, for grep and awk."""
    if title:
        click.echo(click.style(title, bold=True) if wants_colour(sys.stdout) else title)
    if not rows:
        click.echo(f"  {empty}")
        return
    cells = [[cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(headers, cells)
    else:
        _plain_table(headers, cells)


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
    if logs.for_programs():
        log.warning(line)
    else:
        click.echo(printable(mask(line)), err=True)


def _plain_table(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    widths = [max(len(text) for text in column) for column in zip(headers, *cells, strict=True)]
    for line in (headers, *cells):
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _rich_table(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Columns that say nothing are left out; what is too wide for the terminal is folded, never cut."""
    colour = wants_colour(sys.stdout)
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold" if colour else "")
    columns = [
        (header, texts)
        for header, texts in zip(headers, zip(*cells, strict=True), strict=True)
        if any(text != NOTHING for text in texts)
    ]
    for header, texts in columns:
        number = all(text.isdecimal() or text == NOTHING for text in texts)
        longest_word = max(len(word) for text in (header, *texts) for word in text.split())
        drawn.add_column(
            header, justify="right" if number else "left", overflow="fold", min_width=min(longest_word, 10)
        )
    for line in zip(*(texts for _, texts in columns), strict=True):
        drawn.add_row(*(Text(text) for text in line))
    Console(file=sys.stdout, no_color=not colour, highlight=False).print(drawn)


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
