"""What RabbitMQ says of a message beside its body, for people, and why it was dead-lettered.

Read by hand from the frames: whoever may publish can put there what py-amqp can't read. Nested tables are skipped by
their length, never descended into, but for RabbitMQ's own record of deaths.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from struct import unpack_from

CONTENT_TYPE, CONTENT_ENCODING, HEADERS = 0x8000, 0x4000, 0x2000
FLAGS_AT = 12  # after class, weight and the size of the body
LONGEST = 255  # bytes that are kept of a text
_SIZES = {
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"sUu", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"lLdT", 8),
    ord("D"): 5,
    ord("V"): 0,
}
_LONG = frozenset(b"SAFx")  # four bytes of length, and as much behind it
_DEATHS = {b"x-first-death-reason": "first_death_reason", b"x-first-death-queue": "first_death_queue"}


def properties_of(method: bytes, header: bytes) -> dict[str, str]:
    """Texts by name: exchange, routing_key, content_type, content_encoding; and of a dead letter first_death_reason,
    first_death_queue, first_routing_key. Those that are missing or can't be read are left out. Never raises.
    """
    found: dict[str, str] = {}
    for read, payload in ((_read_method, method), (_read_header, header)):
        with suppress(struct.error, IndexError, ValueError):  # what was read before is true all the same
            read(payload, found)
    return found


def _read_method(payload: bytes, found: dict[str, str]) -> None:
    at = 5 + payload[4] + 9  # class, method and the consumer's tag; then the tag of the delivery, and redelivered
    exchange, at = _short(payload, at)
    routing_key, _ = _short(payload, at)
    found |= {"exchange": _text(exchange), "routing_key": _text(routing_key)}


def _read_header(payload: bytes, found: dict[str, str]) -> None:
    (flags,) = unpack_from(">H", payload, FLAGS_AT)
    at = FLAGS_AT + 2
    for flag, name in ((CONTENT_TYPE, "content_type"), (CONTENT_ENCODING, "content_encoding")):
        if flags & flag:
            value, at = _short(payload, at)
            found[name] = _text(value)
    if flags & HEADERS:
        for key, kind, value in _fields(_long(payload, at)):
            if key in _DEATHS and kind == ord("S"):
                found[_DEATHS[key]] = _text(value)
            elif key == b"x-death" and kind == ord("A"):
                _read_death(value, found)


def _read_death(deaths: bytes, found: dict[str, str]) -> None:
    """The record of the last death, which stands first: the routing key is that of before."""
    if deaths[:1] != b"F":
        return
    for key, kind, value in _fields(_long(deaths, 1)):
        if key == b"routing-keys" and kind == ord("A") and value[:1] == b"S":
            found["first_routing_key"] = _text(_long(value, 1))


def _fields(table: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Name, kind and bytes of each field of a table. Raises ``ValueError`` for a kind that AMQP doesn't have."""
    at = 0
    while at < len(table):
        key, at = _short(table, at)
        kind = table[at]
        at += 1
        if kind in _LONG:
            value = _long(table, at)
            at += 4 + len(value)
        elif kind in _SIZES:
            value = table[at : at + _SIZES[kind]]
            at += _SIZES[kind]
        else:
            raise ValueError(f"unknown kind of field: {kind}")
        yield key, kind, value


def _short(payload: bytes, at: int) -> tuple[bytes, int]:
    """A short string, and where it ends."""
    end = at + 1 + payload[at]
    return payload[at + 1 : end], end


def _long(payload: bytes, at: int) -> bytes:
    (length,) = unpack_from(">I", payload, at)
    return payload[at + 4 : at + 4 + length]


def _text(value: bytes) -> str:
    return value[:LONGEST].decode(errors="replace").replace("\0", "\ufffd")
