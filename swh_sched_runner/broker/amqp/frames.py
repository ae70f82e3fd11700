"""AMQP's frames, split out of large reads.

py-amqp waits and reads twice for each of the three frames of a message, and decodes all that surrounds a body (routing
key, properties, headers). That is two thirds of what an event costs, and whoever may publish can put there what ends
it: texts that aren't UTF-8, tables nested without end. Here one read takes in up to 256 KiB, and of a delivery only the
tag, the size and the body are looked at; the rest goes along unread. Every other frame goes to py-amqp.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from struct import Struct, error
from typing import Any

from amqp.exceptions import FrameSyntaxError, UnexpectedFrame

from swh_sched_runner.broker.amqp.properties import properties_of
from swh_sched_runner.broker.interface import KEPT_BYTES, Delivery

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
DELIVER = b"\x00\x3c\x00\x3c"  # class basic, method deliver
READ_BYTES = 262_144
# Workers' headers take a hundred bytes. Anybody's may take a frame, and there are as many in hand as the prefetch says.
HEADER_BYTES = 4_096
# Around a payload: its kind, channel and size before it, and the octet that ends the frame.
HEAD_BYTES, END_BYTES, END = 7, 1, 0xCE

Frame = tuple[int, int, bytes]

_head = Struct(">BHI").unpack_from
_long = Struct(">Q").unpack_from
# What py-amqp raises when the arguments of a method are not what they should be.
_MALFORMED = (error, IndexError, ValueError, TypeError, RecursionError)


class FrameSplitter:
    """Makes frames, and deliveries on one channel, of bytes that come in any pieces.

    What it can't be sure of it raises, as py-amqp's errors of a connection; nothing that came after may be used then.
    """

    def __init__(self, frame_max: int, others: Callable[[Frame], object]) -> None:
        """Frames of up to ``frame_max`` bytes. ``others`` gets all but deliveries; true is "a method is complete"."""
        self.frames = 0  # deliveries' alone: py-amqp counts its own
        # Whether ``others`` raised: there may be complete frames left, so ``feed`` is to be called without more.
        self.interrupted = False
        self._max_payload = frame_max - HEAD_BYTES - END_BYTES
        self._others = others
        self._rest = b""
        self._channel = -1
        self._max_bytes = 0
        self._header_bytes = 0
        self._take: Callable[[Delivery], object] = lambda _: None
        # The message that is arriving: its tag, None between messages; the size of its body, -1 until that is known.
        self._tag: int | None = None
        self._method = self._header = b""
        self._size = -1
        self._arrived = 0
        self._kept: list[bytes] = []

    def take_deliveries(
        self, channel: int, max_bytes: int, take: Callable[[Delivery], object], header_bytes: int = HEADER_BYTES
    ) -> None:
        """From now on deliveries on this channel go to ``take``; a body over ``max_bytes`` is never held whole.

        Of a message whose header is longer than ``header_bytes`` only the routing key is known.
        """
        self._channel, self._max_bytes, self._take, self._header_bytes = channel, max_bytes, take, header_bytes

    def feed(self, received: bytes) -> bool:
        """Take in what was received; True when a message, or a method, became complete."""
        data = self._rest + received if self._rest else received
        at, end, complete = 0, len(data), False
        self.interrupted = True
        try:
            while end - at >= HEAD_BYTES:
                kind, channel, size = _head(data, at)
                if size > self._max_payload:
                    raise UnexpectedFrame(f"a frame claims {size} bytes, agreed were {self._max_payload}")
                if not (METHOD <= kind <= BODY or kind == HEARTBEAT):
                    raise UnexpectedFrame(f"a frame is of the unknown type {kind}")
                start = at + HEAD_BYTES
                stop = start + size
                if stop >= end:
                    break
                if data[stop] != END:
                    raise UnexpectedFrame(f"a frame ends with the octet {data[stop]:#04x}, not {END:#04x}")
                at = stop + END_BYTES
                if channel == self._channel and self._is_delivery(kind, data, start, stop):
                    self.frames += 1
                    if self._arrived == self._size:
                        self._complete()
                        complete = True
                elif self._pass_on((kind, channel, data[start:stop])):
                    complete = True
            self.interrupted = False
        finally:
            self._rest = data[at:]
        return complete

    def _is_delivery(self, kind: int, data: bytes, start: int, stop: int) -> bool:
        """Take in a frame of our channel, unless it is py-amqp's."""
        if kind == BODY:
            return self._add(data, start, stop)
        if kind == HEARTBEAT:
            return False
        if self._tag is not None and (kind == METHOD or self._size >= 0):
            raise UnexpectedFrame(f"a frame of type {kind} came in the middle of a message")
        if kind == METHOD:
            if data[start : start + 4] != DELIVER:
                return False
            self._tag = _tag(data, start, stop)
            self._method, self._header = data[start:stop], b""
            self._size, self._arrived = -1, 0
            return True
        if self._tag is None:
            return False
        if stop - start < 12:
            raise FrameSyntaxError("the header of a message is too short")
        (self._size,) = _long(data, start + 4)
        if stop - start <= self._header_bytes:
            self._header = data[start:stop]
        return True

    def _add(self, data: bytes, start: int, stop: int) -> bool:
        """A part of a body."""
        if self._tag is None:
            return False
        if self._size < 0:
            raise UnexpectedFrame("a body came without a header")
        if self._size <= self._max_bytes:
            self._kept.append(data[start:stop])
        elif self._arrived < KEPT_BYTES:
            self._kept.append(data[start : min(stop, start + KEPT_BYTES - self._arrived)])
        self._arrived += stop - start
        if self._arrived > self._size:
            raise UnexpectedFrame(f"a body has more bytes than the {self._size} that its header said")
        return True

    def _complete(self) -> None:
        assert self._tag is not None
        body = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        properties = partial(properties_of, self._method, self._header)
        delivery = Delivery(body, self._tag, self._size, properties)
        self._tag, self._size, self._kept = None, -1, []
        self._take(delivery)

    def _pass_on(self, frame: Frame) -> object:
        try:
            return self._others(frame)
        except _MALFORMED as fault:
            raise FrameSyntaxError(f"a frame of type {frame[0]} can't be read: {fault!r}") from fault


def _tag(data: bytes, start: int, stop: int) -> int:
    """Of a delivery. After class and method comes the consumer's tag, a byte of length and its text; then this one."""
    at = start + 5
    if at > stop or (at := at + data[at - 1]) + 8 > stop:
        raise FrameSyntaxError("a delivery is too short")
    tag: int = _long(data, at)[0]
    return tag


class FrameReader:
    """Reads a connection of py-amqp's in its place, as soon as it is made."""

    def __init__(self, connection: Any) -> None:
        transport = connection.transport
        self._connection = connection
        self._socket = transport.sock
        self._tls = isinstance(self._socket, ssl.SSLSocket)
        self.splitter = FrameSplitter(int(connection.frame_max), connection.on_inbound_frame)
        # What py-amqp had read of a frame when its time was over.
        self._ahead, transport._read_buffer = bytes(transport._read_buffer), b""

    @property
    def waiting(self) -> bool:
        """Whether there may be something to take in without a read."""
        return self.splitter.interrupted or bool(self._ahead) or (self._tls and self._socket.pending() > 0)

    def read(self) -> bool:
        """Take in what has arrived, or wait for something; True when a message, or a method, became complete."""
        received = b"" if self.splitter.interrupted else self._received()
        frames = self.splitter.frames
        try:
            return self.splitter.feed(received)
        finally:
            self._connection.bytes_recv += self.splitter.frames - frames  # what the heartbeat goes by

    def _received(self) -> bytes:
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        received = self._receive(READ_BYTES)
        if not self._tls:
            return received
        # A read of TLS answers one record, of 16 KiB at most; what else was decrypted is at hand.
        parts, size = [received], len(received)
        while size < READ_BYTES and self._socket.pending():
            parts.append(self._receive(READ_BYTES - size))
            size += len(parts[-1])
        return b"".join(parts)

    def _receive(self, most: int) -> bytes:
        received: bytes = self._socket.recv(most)
        if not received:
            raise ConnectionResetError("the broker closed the connection")
        return received
