"""Deliveries straight from AMQP's frames.

py-amqp decodes all that surrounds a message (routing key, properties, headers) before it hands it over, and whoever
may publish can put there what ends it: texts that aren't UTF-8, a timestamp out of range, tables nested without end.
None of it says anything of an event. Here only the tag, the size and the body are read, and of a body that is too long
its beginning; the rest goes along unread (``properties``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from struct import unpack_from
from typing import Any

from swh_sched_runner.broker.amqp.properties import properties_of
from swh_sched_runner.broker.interface import KEPT_BYTES, Delivery

METHOD, HEADER, BODY = 1, 2, 3
DELIVER = b"\x00\x3c\x00\x3c"  # class basic, method deliver
# Workers' headers take a hundred bytes. Anybody's may take a frame, and there are as many in hand as the prefetch says.
HEADER_BYTES = 4_096


class _Message:
    """A message that is arriving."""

    __slots__ = ("arrived", "header", "kept", "method", "size")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header = b""
        self.size = -1
        self.arrived = 0
        self.kept: list[bytes] = []


class DeliveryFrames:
    """Takes the frames of deliveries on one channel; all others, of any channel, are py-amqp's."""

    def __init__(
        self,
        connection: Any,
        channel_id: int,
        max_bytes: int,
        take: Callable[[Delivery], None],
        header_bytes: int = HEADER_BYTES,
    ) -> None:
        """Each message goes to ``take``; a body longer than ``max_bytes`` is never held whole.

        Of a message whose header is longer than ``header_bytes`` only the routing key is known.
        """
        self._connection = connection
        self._channel_id = channel_id
        self._max_bytes = max_bytes
        self._take = take
        self._header_bytes = header_bytes
        self._message: _Message | None = None
        self._others = connection.on_inbound_frame
        connection.on_inbound_frame = self._on_frame

    def _on_frame(self, frame: tuple[int, int, bytes]) -> bool:
        """What py-amqp calls with each frame; True when a method, or a message, is complete."""
        kind, channel, payload = frame
        if channel != self._channel_id:
            return bool(self._others(frame))
        if kind == METHOD and payload[:4] == DELIVER:
            self._message = _Message(bytes(payload))
        elif kind == HEADER and self._message is not None:
            if len(payload) <= self._header_bytes:
                self._message.header = bytes(payload)
            (self._message.size,) = unpack_from(">Q", payload, 4)
        elif kind == BODY and self._message is not None:
            self._add(self._message, payload)
        else:
            return bool(self._others(frame))
        self._connection.bytes_recv += 1  # what the heartbeat goes by
        return self._complete()

    def _add(self, message: _Message, payload: bytes) -> None:
        if message.size <= self._max_bytes:
            message.kept.append(bytes(payload))
        elif message.arrived < KEPT_BYTES:
            message.kept.append(bytes(payload[: KEPT_BYTES - message.arrived]))
        message.arrived += len(payload)

    def _complete(self) -> bool:
        message = self._message
        if message is None or message.arrived != message.size:
            return False
        self._message = None
        tag, properties = _delivery_tag(message.method), partial(properties_of, message.method, message.header)
        self._take(Delivery(b"".join(message.kept), tag, message.size, properties))
        return True


def _delivery_tag(payload: bytes) -> int:
    """After class and method comes the consumer's tag, a byte of length and its text; then the tag."""
    tag: int = unpack_from(">Q", payload, 5 + payload[4])[0]
    return tag
