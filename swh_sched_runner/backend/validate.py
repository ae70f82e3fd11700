"""Checks of arguments at the door: a wrong one raises an error that names it, before anything is written."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Never, TypeVar
from unicodedata import category
from uuid import UUID

from swh_sched_runner.exc import InvalidArgument, shown
from swh_sched_runner.model import LONGEST_QUEUE

T = TypeVar("T")

# In bytes. A row of a B-tree holds 2,704, and the largest of ours a URL, a name and an identifier.
LONGEST_URL = 2_048
LONGEST_NAME = 500
MOST_RETRIES = 1_000_000
# A run that ends before the year 9000 can be followed by another before the year 10000.
LONGEST_INTERVAL = datetime.timedelta(days=365_000)
# Made once: json.dumps makes a new one for each call with options.
_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode
# An escaped NUL in JSON; the backslash itself is not escaped.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def refuse(argument: str, reason: str, value: object) -> Never:
    """Raise ``InvalidArgument`` with the value cut to a readable length."""
    raise InvalidArgument(argument=argument, reason=reason, value=shown(value))


def one_of(argument: str, value: Any, known: Collection[str]) -> str:
    """``value`` if it is one of ``known``."""
    if not isinstance(value, str) or value not in known:
        refuse(argument, f"must be one of {', '.join(known)}", value)
    return str(value)


def text(argument: str, value: Any) -> str:
    """``value`` if it is a string that PostgreSQL can store and that says something."""
    if not isinstance(value, str) or not value:
        refuse(argument, "must be a string that is not empty", value)
    if "\0" in value:
        refuse(argument, "must not contain a NUL character", value)
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate: how Python shows bytes of the command line that are no UTF-8
        refuse(argument, "must be text that can be encoded in UTF-8", value)
    return value


def string(argument: str, value: Any) -> str:
    """``value`` if it is a string that PostgreSQL can store, the empty one too."""
    return "" if value == "" else text(argument, value)


def url(argument: str, value: Any) -> str:
    """``value`` if it is text that goes into an index as the address of an origin."""
    return _short(argument, text(argument, value), LONGEST_URL)


def name(argument: str, value: Any) -> str:
    """``value`` if it is text that goes into an index as a name or an identifier."""
    return _short(argument, text(argument, value), LONGEST_NAME)


def plain_name(argument: str, value: Any, most: int = LONGEST_NAME) -> str:
    """``value`` if it is a name of one line: no control characters, which tables and logs would have to escape."""
    given = _short(argument, text(argument, value), most)
    if any(category(character) == "Cc" for character in given):
        refuse(argument, "must not contain control characters, such as newlines", value)
    return given


def queue(argument: str, value: Any) -> str:
    """``value`` if brokers take it as the name of a queue."""
    return plain_name(argument, value, LONGEST_QUEUE)


def _short(argument: str, value: str, most: int) -> str:
    length = len(value) if value.isascii() else len(value.encode())
    if length > most:
        refuse(argument, f"must be at most {most} bytes long, and has {length}", value)
    return value


def boolean(argument: str, value: Any) -> bool:
    """``value`` if it is True or False."""
    if not isinstance(value, bool):
        refuse(argument, "must be True or False", value)
    return value


def uuid(argument: str, value: Any) -> UUID:
    """``value`` as a UUID, from one or from its text."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (TypeError, ValueError, AttributeError):
        refuse(argument, "must be a UUID", value)


def integer(argument: str, value: Any, *, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """``value`` if it is a whole number within the bounds (by default those of a bigint)."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        refuse(argument, f"must be a whole number from {least} to {most}", value)
    return value


def number(argument: str, value: Any, *, least: float, most: float) -> float:
    """``value`` as a float if it is a number within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        bounds = [f"{bound:f}".rstrip("0").rstrip(".") for bound in (least, most)]
        refuse(argument, f"must be a number from {' to '.join(bounds)}", value)
    return float(value)


def percentage(argument: str, value: Any) -> float:
    """``value`` if it is a number above 0, up to 100."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100:
        refuse(argument, "must be a number above 0, up to 100", value)
    return float(value)


def timestamp(argument: str, value: Any) -> datetime.datetime:
    """``value`` in UTC if it is a datetime with a time zone, of the years 1 to 9999 in UTC too."""
    if not isinstance(value, datetime.datetime) or value.tzinfo is None or value.utcoffset() is None:
        refuse(argument, "must be a datetime with a time zone", value)
    try:
        return value.astimezone(datetime.UTC)
    except OverflowError:
        refuse(argument, "must lie in the years 1 to 9999 in UTC", value)


def duration(argument: str, value: Any) -> datetime.timedelta:
    """``value`` if it is a timedelta of at least nothing."""
    if not isinstance(value, datetime.timedelta) or value < datetime.timedelta(0):
        refuse(argument, "must be a timedelta that is not negative", value)
    return value


def interval(argument: str, value: Any) -> datetime.timedelta:
    """``value`` if it is a timedelta that may be added to timestamps: of at least nothing, at most a thousand years."""
    if duration(argument, value) > LONGEST_INTERVAL:
        refuse(argument, f"must be at most {LONGEST_INTERVAL.days} days", value)
    return value  # type: ignore[no-any-return]


def many(argument: str, values: Iterable[T]) -> list[T]:
    """``values`` as a list, once: an iterator is used up by it. One thing alone is refused."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        refuse(argument, "must be an iterable", values)
    return list(values)


def ids(argument: str, values: Iterable[Any]) -> list[int]:
    """``values`` as a list of bigints."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        refuse(argument, "must be an iterable of whole numbers", values)
    return [integer(argument, value) for value in values]


def json_text(argument: str, value: Any) -> str:
    """``value`` as JSON that jsonb can hold: no NaN, no NUL character, no lone surrogate, no foreign class."""
    try:
        encoded = _encode(value)
        encoded.encode()
    except (TypeError, ValueError, RecursionError) as error:
        refuse(argument, f"must be valid JSON: {error}", value)
    if "\\u0000" in encoded and _ESCAPED_NUL.search(encoded):
        refuse(argument, "must not contain a NUL character", value)
    return encoded


def json_object(argument: str, value: Any) -> str:
    """``value`` as JSON if it is a dict that jsonb can hold."""
    if not isinstance(value, dict):
        refuse(argument, "must be a dict", value)
    return json_text(argument, value)


def sendable(argument: str, value: Any, encoded: str, most_bytes: int, most_depth: int) -> str:
    """``encoded``, which is the JSON of ``value``, if a message can carry it: not too large, not nested too deep."""
    if len(encoded) > most_bytes // 4 and (size := len(encoded.encode())) > most_bytes:
        refuse(argument, f"must not be larger than {most_bytes} bytes of JSON, and has {size}", value)
    if encoded.count("[") + encoded.count("{") > most_depth and _is_deeper(value, most_depth):
        refuse(argument, f"must not be nested deeper than {most_depth}", value)
    return encoded


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [inner for each in level for inner in _containers_in(each)]
        if not level:
            return False
    return True


def _containers_in(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, Mapping) else value
    return [each for each in inner if isinstance(each, list | tuple | Mapping)]
