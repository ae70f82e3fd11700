"""How arguments of commands are written: durations, timestamps, limits, and the arguments of a task."""

from __future__ import annotations

import getpass
import json
import math
import os
import re
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

NONE = "none"
LONGEST_SHOWN = 60
LONGEST_INTEGER = 40  # characters; zeros may lead
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_WORDS = {
    **dict.fromkeys(("w", "week", "weeks"), "w"),
    **dict.fromkeys(("d", "day", "days"), "d"),
    **dict.fromkeys(("h", "hour", "hours"), "h"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*,?")
_ISO = re.compile(r"p(?:(\d+)w)?(?:(\d+)d)?(?:t(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?)?")
_KEYWORD = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


def parse_duration(text: str) -> timedelta:
    """``30s``, ``1d12h``, ``1 day``, ``P1DT12H``; raises ``ValueError`` for anything else."""
    lower = text.strip().lower()
    iso = _ISO.fullmatch(lower)
    if iso and any(iso.groups()):
        return _of(zip("wdhms", iso.groups("0"), strict=True))
    parts, end = [], 0
    while match := _PART.match(lower, end):
        if match[2] not in _WORDS:
            break
        parts.append((_WORDS[match[2]], match[1]))
        end = match.end()
    if not parts or end != len(lower):
        raise ValueError(text)
    return _of(parts)


def parse_timestamp(text: str, now: datetime) -> datetime:
    """An ISO 8601 timestamp (UTC unless it says otherwise), ``now``, or ``+5m``; else ``ValueError``."""
    if text == "now":
        return now
    if text.startswith("+"):
        return now + parse_duration(text[1:])
    given = datetime.fromisoformat(text)
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def parse_arguments(values: Sequence[str], as_json: bool) -> dict[str, Any]:
    """The arguments of a task: words with ``key=`` are keywords, the others positions. Raises ``ValueError``."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in values:
        keyword = _KEYWORD.fullmatch(word)
        value = keyword[2] if keyword else word
        try:
            parsed = parse_json(value) if as_json else value
        except json.JSONDecodeError:
            raise ValueError(f"{cut(repr(value))} is not JSON (a string needs its quotes)") from None
        if keyword is None:
            args.append(parsed)
        elif keyword[1] in kwargs:
            raise ValueError(f"{keyword[1]} is given twice")
        else:
            kwargs[keyword[1]] = parsed
    return {"args": args, "kwargs": kwargs}


def parse_json(text: str) -> Any:
    """``text`` as JSON. Raises ``JSONDecodeError``, and ``ValueError`` that names what Python has a limit for."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{cut(text)} is nested too deep") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python reads no longer ones, which take a time in the square of their length
        raise ValueError(f"numbers may have at most {sys.get_int_max_str_digits():,} digits: {cut(text)}") from None


def cut(text: str, most: int = LONGEST_SHOWN) -> str:
    """As much of it as an error may repeat."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def _of(parts: Any) -> timedelta:
    try:
        return timedelta(seconds=sum(float(number) * _SECONDS[unit] for unit, number in parts))
    except OverflowError as error:
        raise ValueError(f"too long: {error}") from error


def operator() -> str:
    """Who runs this command, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for it in the environment nor in the system
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


# As types of click parameters; their names are what --help shows.


def integer(text: str | int, least: int = -(2**63)) -> int:
    """A whole number that a bigint holds. Click would call a longer one no integer, and repeat all of it."""
    words = str(text)
    if re.fullmatch(r"[+-]?[0-9]+", words) is None:
        raise click.BadParameter(f"{cut(repr(words))} is not a whole number")
    if len(words) > LONGEST_INTEGER or not least <= int(words) < 2**63:
        raise click.BadParameter(f"{cut(words)} is not a whole number from {least} to {2**63 - 1}")
    return int(words)


def count(text: str | int) -> int:
    """A whole number that is not negative."""
    return integer(text, 0)


def duration(text: str) -> timedelta:
    """A duration on the command line."""
    try:
        return parse_duration(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a duration: write 30s, 5m, 12h, 7d, 1d12h, '1 day' or P1DT12H"
        ) from None


def timestamp(text: str) -> datetime:
    """A timestamp on the command line."""
    try:
        return parse_timestamp(text, datetime.now(UTC))
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is not a timestamp: write 2026-01-31T12:00:00Z, now, or +5m") from None


def seconds(text: str) -> float:
    """A number of seconds on the command line."""
    try:
        given = float(text)
    except ValueError:
        given = math.nan
    if not 0 <= given < math.inf:
        raise click.BadParameter(f"{text!r} is not a number of seconds")
    return given


def duration_or_none(text: str, option: str) -> timedelta | None:
    """A duration or ``none`` on the command line; ``option`` is where it stands there."""
    try:
        return None if text == NONE else parse_duration(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a duration nor `{NONE}`: write 12h, 90d or '1 day'", param_hint=option
        ) from None


def limit(text: str, option: str, kind: type[int] | type[float] = int) -> Any:
    """A number or ``none`` on the command line; ``option`` is where it stands there."""
    try:
        return None if text == NONE else kind(text)
    except ValueError:
        if text.isdecimal() and text.isascii():
            raise click.BadParameter(f"{cut(text)} has more digits than a number may have", param_hint=option) from None
        raise click.BadParameter(f"{cut(repr(text))} is neither a number nor `{NONE}`", param_hint=option) from None
