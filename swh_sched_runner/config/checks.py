"""Checks values against the types of the settings, one option at a time, so that an error can name its source."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Never, get_args, get_origin

import msgspec

from swh_sched_runner.config.secrets import HIDDEN, is_secret, mask, masked
from swh_sched_runner.exc import ConfigurationError

# A URL that is refused may hold a password anywhere, unless it looks like this.
_HOLDS_NO_SECRET = re.compile(r"[A-Za-z0-9+.\-]+://[A-Za-z0-9_.\-/]*")
_HOST_NAME = re.compile(r"\.?[A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)*\.?")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
URLS = ("url", "result_backend")
LONGEST_SHOWN = 200
MOST_NESTED = 20
_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


class Source(NamedTuple):
    """Where values came from. Those of an environment are text, to be read as the option's type."""

    name: str
    is_text: bool = False


def host_names(value: Any) -> str | None:
    """Why ``value`` are no names of hosts, or None."""
    if all(name == "*" or _HOST_NAME.fullmatch(name) for name in value):
        return None
    return 'must be host names without ports, suffixes such as ".example.org", or "*"'


def checked(value: Any, kind: Any, path: tuple[str, ...], source: Source) -> Any:
    """``value`` as the type ``kind``, tables as dicts; raises ``ConfigurationError`` that names option and source."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {info.encode_name: info.type for info in msgspec.structs.fields(kind)}
        table = _table(value, path, source)
        kinds = {key: _known(key, fields, path, source) for key in table}
        return {key: checked(inner, kinds[key], (*path, key), source) for key, inner in table.items()}
    if dict in _bare(kind) and value is not None:
        table, inner_kind = _table(value, path, source), _inner(kind)
        for names in (meta.extra["names"] for meta in _metas(kind) if meta.extra):
            for key in table:
                _known(key, dict.fromkeys(names), path, source)
        return {key: checked(inner, inner_kind, (*path, key), source) for key, inner in table.items()}
    if kind is Any:
        free = _free(value, source)
        _check_nested(free, path, source)
        return free
    return _leaf(value, kind, path, source)


def _leaf(value: Any, kind: Any, path: tuple[str, ...], source: Source) -> Any:
    given = value
    _check_text(value, path, source)
    if value == "off" and type(None) in get_args(kind) and float in _bare(kind):
        return None
    try:
        if source.is_text and tuple in _bare(kind):
            value = _parse(value)
        converted = msgspec.convert(value, kind, strict=not source.is_text)
    except ValueError:
        _refuse(path, f"must be {_described(kind)}", given, source)
    for meta in _metas(kind):
        if converted is not None and meta.extra and (reason := meta.extra["check"](converted)):
            _refuse(path, reason, given, source)
    return converted


def _check_text(value: Any, path: tuple[str, ...], source: Source) -> None:
    """What no library below takes: NUL, and bytes that are not UTF-8, as Python has them in an environment."""
    if isinstance(value, str) and _NO_TEXT.search(value):
        raise ConfigurationError(reason=f"{'.'.join(path)} must be UTF-8 without NUL ({source.name})")


def _check_nested(value: Any, path: tuple[str, ...], source: Source) -> None:
    """The same for all that a value holds, which must not be nested deeper than whoever handles it can follow."""
    level = [value]
    for _ in range(MOST_NESTED):
        for one in level:
            _check_text(one, path, source)
        level = [inner for one in level for inner in _held(one)]
    if level:
        raise ConfigurationError(reason=f"{'.'.join(path)} is nested deeper than {MOST_NESTED} levels ({source.name})")


def _held(value: Any) -> Iterable[Any]:
    match value:
        case dict():
            return (*value, *value.values())
        case list() | tuple():
            return value
        case _:
            return ()


def _table(value: Any, path: tuple[str, ...], source: Source) -> dict[str, Any]:
    table = value
    if source.is_text and isinstance(value, str):
        try:
            table = _parse(value)
        except ValueError:
            table = None
    if not isinstance(table, dict):
        _refuse(path, "must be a table", value, source)
    return table


def _free(value: Any, source: Source) -> Any:
    """A value whose type only its user knows: text that reads as JSON or TOML is that, else it is a string."""
    if isinstance(value, dict):  # made of the parts of a variable's name
        return {key: _free(inner, source) for key, inner in value.items()} if source.is_text else value
    if source.is_text and isinstance(value, str):
        try:
            return _parse(value)
        except ValueError:
            return value
    return value


def _parse(text: str) -> Any:
    """``text`` as JSON, or as TOML; raises ``ValueError``."""
    try:
        try:
            return json.loads(text)
        except ValueError:
            return tomllib.loads(f"value = {text}")["value"]
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _known(key: str, fields: dict[str, Any], path: tuple[str, ...], source: Source) -> Any:
    if key in fields:
        return fields[key]
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    name = ".".join((*path, key))
    advice = f"did you mean {'.'.join((*path, *near))}?" if near else f"known are {', '.join(fields)}"
    raise ConfigurationError(reason=f"unknown option {name}, {advice} ({source.name})")


def _refuse(path: tuple[str, ...], reason: str, value: Any, source: Source) -> Never:
    hidden = any(is_secret(part) for part in path)
    if isinstance(value, str):  # what can't be read may hold a password, and its place is unknown
        hidden = hidden or is_secret(value) or ("@" in value and mask(value) == value)
        hidden = hidden or (path[-1] in URLS and _HOLDS_NO_SECRET.fullmatch(value) is None)
    shown = HIDDEN if hidden else repr(masked(value))
    if len(shown) > LONGEST_SHOWN:
        shown = f"{shown[:LONGEST_SHOWN]}… ({len(shown)} characters)"
    raise ConfigurationError(reason=f"{'.'.join(path)} {reason}, not {shown} ({source.name})")


def _without_none(kind: Any) -> Any:
    others = [part for part in get_args(kind) if part is not type(None)]
    return others[0] if type(None) in get_args(kind) and len(others) == 1 else kind


def _inner(kind: Any) -> Any:
    """The type of a table's values."""
    while get_origin(kind) is not dict:
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else _without_none(kind)
    return get_args(kind)[1]


def _metas(kind: Any) -> Iterator[msgspec.Meta]:
    if get_origin(kind) is Annotated:
        yield from (part for part in get_args(kind)[1:] if isinstance(part, msgspec.Meta))
        yield from _metas(get_args(kind)[0])
    elif type(None) in get_args(kind):
        yield from _metas(_without_none(kind))


def _bare(kind: Any) -> tuple[Any, ...]:
    """The types that a value may have, without None and without what annotates them."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if type(None) in get_args(kind):
        return _bare(_without_none(kind))
    return (get_origin(kind) or kind,)


def _described(kind: Any) -> str:
    (base,) = _bare(kind)
    if base is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if base is tuple:
        return "a list of strings"
    text = _NAMES[base]
    for meta in _metas(kind):
        if meta.gt is not None:
            text += f" greater than {meta.gt}"
        if meta.ge is not None:
            text += f" from {meta.ge}"
        if meta.le is not None:
            text += f" up to {meta.le}"
        if meta.min_length is not None:
            text += " that is not empty"
    return text + (', or "off"' if base is float and type(None) in get_args(kind) else "")
