"""The settings as TOML that ``--config`` reads, but for passwords; and where each of them came from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

import msgspec

from swh_sched_runner.config.secrets import masked
from swh_sched_runner.config.settings import Settings

_BARE = re.compile(r"[A-Za-z0-9_-]+")
DEFAULT = "default"


def as_toml(settings: Settings, sources: Mapping[str, Iterable[str]] | None = None) -> Iterator[str]:
    """The lines. With ``sources`` (by dotted name) each says where its value came from."""
    plain = masked(msgspec.to_builtins(settings))
    tables = {key: value for key, value in plain.items() if isinstance(value, dict)}
    yield from _options({key: value for key, value in plain.items() if key not in tables}, (), Settings, sources)
    for key, table in tables.items():
        kind = _type_of(key, Settings)
        if isinstance(kind, type):
            yield from _section(table, (key,), kind, sources)
        else:  # tables by names that the user gives
            for name, inner in table.items():
                yield from _section(inner, (key, name), get_args(kind)[1], sources)


def where_from(read: Iterable[tuple[Mapping[str, Any], str]]) -> dict[str, list[str]]:
    """The sources of each option by its dotted name, of what was read and from where, in increasing precedence."""
    found: dict[str, list[str]] = {}
    for values, source in read:
        for name, value in _leaves(values):
            before = found.get(name, []) if isinstance(value, dict) else []  # tables are merged, others replaced
            found[name] = [*before, source]
    return found


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Options by dotted name; a table below an option belongs to its value."""
    for key, value in values.items():
        kind = _type_of(key, Settings)
        if isinstance(kind, type):
            yield from ((f"{key}.{option}", inner) for option, inner in value.items())
        elif get_origin(kind) is dict:
            for name, table in value.items():
                yield from ((f"{key}.{name}.{option}", inner) for option, inner in table.items())
        else:
            yield key, value


def _type_of(key: str, kind: Any) -> Any:
    return next(info.type for info in msgspec.structs.fields(kind) if info.encode_name == key)


def _section(
    table: Mapping[str, Any], path: tuple[str, ...], kind: Any, sources: Mapping[str, Iterable[str]] | None
) -> Iterator[str]:
    yield ""
    yield f"[{'.'.join(map(_key, path))}]"
    yield from _options(table, path, kind, sources)


def _options(
    table: Mapping[str, Any], path: tuple[str, ...], kind: Any, sources: Mapping[str, Iterable[str]] | None
) -> Iterator[str]:
    for key, value in table.items():
        line = f"{_key(key)} = {_value(value)}" if value is not None else _unset(key, _type_of(key, kind))
        if sources is not None:
            line += f"  # {', '.join(sources.get('.'.join((*path, key)), [DEFAULT]))}"
        yield line


def _unset(key: str, kind: Any) -> str:
    """An option without a value: TOML has no word for it, and those that can be switched off have ours."""
    return f'{key} = "off"' if "float" in str(kind) else f"#{key} ="


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case float() if not math.isfinite(value):
            return str(value)  # inf, -inf, nan: as TOML has them
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            inner = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None)
            return f"{{ {inner} }}" if inner else "{}"
        case _:
            return str(value)


def _text(value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
