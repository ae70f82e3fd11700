"""What the broker says of a message is read from its frames, whatever stands there."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swh_sched_runner.broker.amqp.properties import properties_of


def short(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def long(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def field(key: bytes, kind: bytes, value: bytes) -> bytes:
    return short(key) + kind + value


METHOD = struct.pack(">HH", 60, 60) + short(b"tag") + struct.pack(">QB", 7, 0) + short(b"celeryev") + short(b"task.x")
ROUTED = {"exchange": "celeryev", "routing_key": "task.x"}
DEATH = field(b"queue", b"S", long(b"q")) + field(b"routing-keys", b"A", long(b"S" + long(b"task.multi")))
DEATHS = (
    field(b"x-death", b"A", long(b"F" + long(DEATH)))
    + field(b"x-first-death-queue", b"S", long(b"q"))
    + field(b"x-first-death-reason", b"S", long(b"maxlen"))
)
DIED = {"first_death_reason": "maxlen", "first_death_queue": "q", "first_routing_key": "task.multi"}


def header(table: bytes | None = None, *, content_type: bytes | None = None) -> bytes:
    flags = (0x8000 if content_type is not None else 0) | (0x2000 if table is not None else 0)
    written = b"" if content_type is None else short(content_type)
    written += b"" if table is None else long(table)
    return struct.pack(">HHQH", 60, 0, 5, flags) + written


def test_a_plain_message_has_its_exchange_key_and_type() -> None:
    assert properties_of(METHOD, header(content_type=b"application/json")) == ROUTED | {
        "content_type": "application/json"
    }


@pytest.mark.parametrize(
    "before",
    [
        b"",
        field(b"flag", b"t", b"\1"),
        field(b"deep", b"F", long(field(b"deep", b"F", long(b"\xff" * 50)))),
        field(b"bytes", b"x", long(b"\0\xff")),
        field(b"void", b"V", b""),
        field(b"decimal", b"D", b"\xff\0\0\0\1"),
        field(b"\xff", b"T", b"\xff" * 8),
        field(b"x-first-death-reason", b"I", b"\0\0\0\1"),
    ],
)
def test_why_a_message_died_is_found_behind_whatever_stands_before(before: bytes) -> None:
    assert properties_of(METHOD, header(before + DEATHS, content_type=b"\xff")) == ROUTED | DIED | {
        "content_type": "\ufffd"
    }


@pytest.mark.parametrize(
    "table",
    [
        field(b"odd", b"?", b"") + DEATHS,
        field(b"long", b"S", struct.pack(">I", 2**32 - 1)),
        b"\xff",
        DEATHS[:40],
    ],
)
def test_what_can_not_be_read_is_left_out(table: bytes) -> None:
    found = properties_of(METHOD, header(table))

    assert found["routing_key"] == "task.x"
    assert "first_death_reason" not in found


def test_texts_are_short_and_without_nul() -> None:
    found = properties_of(METHOD, header(field(b"x-first-death-reason", b"S", long(b"\0" + b"x" * 1_000))))

    assert found["first_death_reason"] == "\ufffd" + "x" * 254


@given(st.binary(max_size=60), st.binary(max_size=200))
def test_no_frame_is_too_odd_to_be_read(method: bytes, rest: bytes) -> None:
    found = properties_of(METHOD[:4] + method, header(None)[:12] + rest)

    assert all("\0" not in value and len(value) <= 255 for value in found.values())
