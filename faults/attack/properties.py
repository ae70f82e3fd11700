"""Hostile properties, of messages whose bodies are events: what AMQP carries, and what it only seems to carry."""

from __future__ import annotations

import struct

from faults.attack.classes import EVENT_PROPERTIES, KEYS, Source, encoded, properties
from faults.attack.wire import Message, long, short, table

NO_UTF8 = (b"\xff", b"\xff\xfe\xfd", b"\xc3", b"a\xe9b", b"\xed\xa0\x80", b"\0", b"\x80" * 200)
# Each field type of AMQP's tables, as RabbitMQ reads them, with values that are hard to hold.
VALUES: dict[str, tuple[bytes, ...]] = {
    "boolean": (b"t\0", b"t\x02"),
    "signed-octet": (b"b\x80",),
    "unsigned-octet": (b"B\xff",),
    "signed-short": (b"s\x80\0",),
    "unsigned-short": (b"u\xff\xff",),
    "signed-int": (b"I\x80\0\0\0",),
    "unsigned-int": (b"i\xff\xff\xff\xff",),
    "signed-long": (b"l\x80\0\0\0\0\0\0\0", b"L\x80\0\0\0\0\0\0\0"),
    "float": (b"f\x7f\x7f\xff\xff", b"f\x80\0\0\0", b"f\x7f\x80\0\0"),
    "double": (b"d\x7f\xef\xff\xff\xff\xff\xff\xff", b"d\0\0\0\0\0\0\0\1", b"d\x7f\xf8\0\0\0\0\0\0"),
    "decimal": (b"D\0\x7f\xff\xff\xff", b"D\xff\x80\0\0\0"),
    "text": (b"S" + long(b"\xff\xfe"), b"S" + long(b"")),
    "bytes": (b"x" + long(b"\x80\0\xff"), b"x" + long(b"")),
    "timestamp": (b"T\xff\xff\xff\xff\xff\xff\xff\xff", b"T" + b"\x7f" * 8),
    "void": (b"V",),
    "table": (b"F" + table((b"a", b"V")), b"F" + table()),
    "array": (b"A" + long(b"t\x01" + b"A" + long(b"V" + b"F" + table())), b"A" + long(b"")),
    "unknown": (b"\xfe\0", b"Z\0\0", b"\0"),
    "cut-off": (b"S\0\0\xff\xff", b"I\0"),
}
TEXTS = (
    *("content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id", "type"),
    *("user_id", "app_id", "cluster_id"),
)
TIMESTAMPS = (2**31, 253_402_300_800, 10**15, 2**63 - 1, 2**63, 2**64 - 1)


def _event(source: Source, **odd: bytes) -> Message:
    body = encoded(source.event(uuid=source.foreign()))
    return Message(body, key=source.dice.choice(KEYS), properties=EVENT_PROPERTIES | odd)


def _text(name: str) -> None:
    @properties(f"property-{name.replace('_', '-')}")
    def _(source: Source) -> Message:
        return _event(source, **{name: short(source.dice.choice(NO_UTF8))})


def _value(name: str, values: tuple[bytes, ...]) -> None:
    @properties(f"header-{name}")
    def _(source: Source) -> Message:
        key = source.dice.choice([b"a", b"hostname", b"", b"k" * 255])
        return _event(source, headers=table((key, source.dice.choice(values)), (b"z", b"t\x01")))


for _name in TEXTS:
    _text(_name)
for _name, _values in VALUES.items():
    _value(_name, _values)


@properties("routing-key")
def _(source: Source) -> Message:
    key = b"task." + source.dice.choice([*NO_UTF8, b"x" * 240, b"." * 100])
    return Message(encoded(source.event(uuid=source.foreign())), key=key, properties=EVENT_PROPERTIES)


@properties("timestamp")
def _(source: Source) -> Message:
    return _event(source, timestamp=struct.pack(">Q", source.dice.choice(TIMESTAMPS)))


@properties("header-name")
def _(source: Source) -> Message:
    return _event(source, headers=table((source.dice.choice(NO_UTF8), b"t\x01")))


@properties("headers-nested")
def _(source: Source) -> Message:
    depth = source.dice.choice([100, 990, 1_500, 2_000, 2_500, 2_500, 5_000])
    return _event(source, headers=_nested(depth, short(b"a") + b"F"))


@properties("headers-nested-arrays")
def _(source: Source) -> Message:
    depth = source.dice.choice([100, 990, 1_500, 2_000, 2_500, 2_500, 5_000])
    return _event(source, headers=table((b"a", b"A" + _nested(depth, b"A"))))


@properties("headers-huge")
def _(source: Source) -> Message:
    size = source.dice.choice([10_000, 100_000, 130_000])
    many = table(*((b"key-%d" % n, b"I\0\0\0\1") for n in range(size // 20)))
    return _event(source, headers=source.dice.choice([table((b"a", b"S" + long(b"\xff" * size))), many]))


@properties("headers-same-name")
def _(source: Source) -> Message:
    return _event(source, headers=table(*[(b"hostname", b"V"), (b"hostname", b"t\x01")] * 50))


@properties("priority")
def _(source: Source) -> Message:
    return _event(source, priority=source.dice.choice([b"\xff", b"\x80", b"\x0a"]))


@properties("delivery-mode")
def _(source: Source) -> Message:
    return _event(source, delivery_mode=source.dice.choice([b"\0", b"\x03", b"\xff"]))


@properties("content-encoding-known")
def _(source: Source) -> Message:
    encoding = source.dice.choice([b"binary", b"utf-16", b"idna", b"rot13", b"zlib", b"undefined", b""])
    return _event(source, content_encoding=short(encoding))


@properties("content-type-known")
def _(source: Source) -> Message:
    kind = source.dice.choice(
        [b"application/x-python-serialize", b"application/x-yaml", b"application/data", b"text/plain"]
    )
    return _event(source, content_type=short(kind))


@properties("no-properties")
def _(source: Source) -> Message:
    return Message(encoded(source.event(uuid=source.foreign())), properties={})


def _nested(depth: int, before: bytes) -> bytes:
    """Lists or tables in each other, each with a length and these bytes before the next one."""
    step = 4 + len(before)
    lengths = (step * level for level in range(depth, 0, -1))
    return b"".join(struct.pack(">I", length) + before for length in lengths) + long(b"")
