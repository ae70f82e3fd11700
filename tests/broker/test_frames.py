"""Frames split out of large reads, beside py-amqp's own reading of the same bytes."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import ConnectionError as AmqpError
from amqp.exceptions import NotFound
from amqp.method_framing import frame_handler
from amqp.spec import Basic
from amqp.transport import TCPTransport

from swh_sched_runner.broker.amqp.frames import FrameSplitter
from swh_sched_runner.broker.interface import KEPT_BYTES, Delivery

OURS, OTHER = 3, 7
FRAME_MAX = 4_096
# What arrived: channel, method, its arguments, and the body if it has one; of deliveries to us only tag and body.
Arrived = list[tuple[Any, ...]]


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def deliver(channel: int, tag: int, consumer: bytes = b"None1") -> bytes:
    name = bytes([len(consumer)]) + consumer
    arguments = struct.pack(">HH", 60, 60) + name + struct.pack(">QB", tag, 0) + b"\x08celeryev\x06task.x"
    return frame(1, channel, arguments)


def header(channel: int, size: int, kept: bytes = b"\x00\x00") -> bytes:
    return frame(2, channel, struct.pack(">HHQ", 60, 0, size) + kept)


def message(channel: int, tag: int, body: bytes, piece: int = FRAME_MAX - 8) -> list[bytes]:
    """The frames of a delivery, its body in pieces."""
    pieces = [frame(3, channel, body[at : at + piece]) for at in range(0, len(body), piece)]
    return [deliver(channel, tag), header(channel, len(body)), *pieces]


def other_method(rng: random.Random) -> list[bytes]:
    """What comes between messages: an answer, a heartbeat, "blocked"."""
    return [
        rng.choice(
            [
                frame(8, 0, b""),
                frame(1, 0, struct.pack(">HH", 10, 60) + b"\x06memory"),
                frame(1, OURS, struct.pack(">HH", 60, 21) + b"\x05None1"),
                frame(1, OTHER, struct.pack(">HH", 50, 11) + b"\x01q" + struct.pack(">II", 1, 1)),
            ]
        )
    ]


def stream(rng: random.Random) -> bytes:
    """Messages on two channels, whose frames come between each other, and other methods among them."""
    by_channel: dict[int, list[bytes]] = {OURS: [], OTHER: [], 0: []}
    for tag in range(1, rng.randint(2, 12)):
        channel = rng.choice([OURS, OURS, OTHER])
        size = rng.choice([0, 1, rng.randint(0, 300), rng.randint(0, 3 * FRAME_MAX)])
        by_channel[channel] += message(channel, tag, rng.randbytes(size), rng.randint(max(1, size // 4), FRAME_MAX - 8))
        for method in other_method(rng) if rng.random() < 0.4 else ():
            by_channel[struct.unpack_from(">H", method, 1)[0]].append(method)
    frames: list[bytes] = []
    while any(by_channel.values()):
        of_channel = rng.choice([frames for frames in by_channel.values() if frames])
        frames.append(of_channel.pop(0))
    return b"".join(frames)


def pieces(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """The same bytes, cut anywhere."""
    cuts = sorted(rng.choices(range(len(data) + 1), k=rng.randint(0, 12)))
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[start:stop]


class Whole(TCPTransport):
    """py-amqp's reading of bytes that are all there."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self._read_buffer = b""
        self.connected = False

    def _read(self, n: int, initial: bool = False, _errnos: object = ()) -> bytes:
        read = self._data.read(n)
        if len(read) < n:
            raise EOFError
        return read


def note(arrived: Arrived) -> Any:
    def on_method(channel: int, method: tuple[int, int], arguments: bytes, content: Any) -> None:
        body = None if content is None else bytes(content.body or b"")
        if channel == OURS and method == Basic.Deliver:
            at = 5 + arguments[4]
            arrived.append((struct.unpack_from(">Q", arguments, at)[0], body or b""))
        else:
            arrived.append((channel, method, bytes(arguments), body))

    return on_method


def as_py_amqp_reads(data: bytes) -> Arrived:
    arrived: Arrived = []
    transport = Whole(data)
    handle = frame_handler(SimpleNamespace(bytes_recv=0), note(arrived))
    while True:
        try:
            handle(transport.read_frame())
        except EOFError:
            return arrived


def splitter(arrived: Arrived, max_bytes: int = 1_000_000) -> FrameSplitter:
    split = FrameSplitter(FRAME_MAX, frame_handler(SimpleNamespace(bytes_recv=0), note(arrived)))
    split.take_deliveries(OURS, max_bytes, lambda delivery: arrived.append((delivery.tag, delivery.body)))
    return split


def test_ten_thousand_cuts_read_as_py_amqp_reads_the_whole() -> None:
    rng = random.Random(20_261_130)
    for _ in range(500):
        data = stream(rng)
        expected = as_py_amqp_reads(data)
        for _ in range(20):
            arrived: Arrived = []
            split = splitter(arrived)
            for piece in pieces(rng, data):
                split.feed(piece)
            assert arrived == expected


def test_a_message_of_each_size_of_read_is_complete_with_its_last_octet() -> None:
    data = b"".join(message(OURS, 7, b"x" * 9_000))
    for size in (1, 2, 7, 8, 1_000, 4_096, len(data) - 1, len(data)):
        arrived: Arrived = []
        split = splitter(arrived)
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        assert [split.feed(part) for part in parts] == [False] * (len(parts) - 1) + [True]
        assert arrived == [(7, b"x" * 9_000)]
        assert split.frames == 5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack(">BHI", 3, OURS, FRAME_MAX - 7), "claims 4089 bytes, agreed were 4088"),
        (struct.pack(">BHI", 1, 0, 2**32 - 1), "claims 4294967295 bytes"),
        (struct.pack(">BHI", 4, OURS, 0), "unknown type 4"),
        (struct.pack(">BHI", 0, 0, 0), "unknown type 0"),
        (struct.pack(">BHI", 255, 9, 0), "unknown type 255"),
        (frame(8, 0, b"")[:-1] + b"\xcd", "ends with the octet 0xcd"),
        (deliver(OURS, 2)[:-1] + b"\x00", "ends with the octet 0x00"),
        (deliver(OURS, 2) + frame(3, OURS, b"x"), "without a header"),
        (frame(3, OURS, b"x"), "Received frame 3"),
        (header(OURS, 1), "Received frame 2"),
        (frame(3, OTHER, b"x"), "Received frame 3"),
        (deliver(OURS, 2) + header(OURS, 1) + header(OURS, 1), "in the middle of a message"),
        (deliver(OURS, 2) + deliver(OURS, 3), "in the middle of a message"),
        (deliver(OURS, 2) + header(OURS, 1) + frame(3, OURS, b"xy"), "more bytes than the 1"),
        (deliver(OURS, 2) + frame(2, OURS, b"\x00" * 11), "header of a message is too short"),
        (frame(1, OURS, b"\x00\x3c\x00\x3c"), "delivery is too short"),
        (frame(1, OURS, b"\x00\x3c\x00\x3c\xff" + b"x" * 20), "delivery is too short"),
        (frame(1, OURS, b"\x00"), "can't be read"),
        (frame(1, 0, b""), "can't be read"),
    ],
)
def test_what_is_malformed_is_an_error_of_the_connection_with_its_reason(data: bytes, reason: str) -> None:
    arrived: Arrived = []
    split = splitter(arrived)

    with pytest.raises(AmqpError, match=reason):
        split.feed(b"".join(message(OURS, 1, b"good")) + data + b"".join(message(OURS, 9, b"never")))

    assert arrived == [(1, b"good")]


def test_a_body_that_is_too_long_is_discarded_as_it_arrives() -> None:
    taken: list[Delivery] = []
    split = FrameSplitter(FRAME_MAX, lambda _: None)
    split.take_deliveries(OURS, 100_000, taken.append)
    body = bytes(range(256)) * 4_000

    for part in message(OURS, 1, body):
        split.feed(part)
        assert sum(map(len, split._kept)) <= KEPT_BYTES
    split.feed(b"".join(message(OURS, 2, b"y" * 100_000)))

    kept = [(delivery.body, delivery.tag, delivery.size) for delivery in taken]
    assert kept == [(body[:KEPT_BYTES], 1, len(body)), (b"y" * 100_000, 2, 100_000)]


def test_what_follows_a_refusal_in_the_same_read_is_not_lost() -> None:
    arrived: Arrived = []

    def others(_: object) -> bool:
        raise NotFound("no queue")

    split = FrameSplitter(FRAME_MAX, others)
    split.take_deliveries(OURS, 1_000, lambda delivery: arrived.append((delivery.tag, delivery.body)))
    with pytest.raises(NotFound):
        split.feed(frame(1, OTHER, b"") + b"".join(message(OURS, 1, b"x")))
    assert split.interrupted

    assert split.feed(b"")
    assert arrived == [(1, b"x")]
    assert not split.interrupted
