"""AMQP 0-9-1 by hand: publishes what client libraries refuse to, and says when the broker refuses it as well."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

METHOD, HEADER, BODY = 1, 2, 3
FRAME_END = b"\xce"
FRAME_MAX = 131_072
# Class and method, as numbers of the protocol.
START_OK, TUNE, TUNE_OK, OPEN, CONNECTION_CLOSE = (10, 11), (10, 30), (10, 31), (10, 40), (10, 50)
START, OPEN_OK, CHANNEL_OPEN, CHANNEL_OPEN_OK, CHANNEL_CLOSE = (10, 10), (10, 41), (20, 10), (20, 11), (20, 40)
PUBLISH, ACK, NACK, SELECT, SELECT_OK = (60, 40), (60, 80), (60, 120), (85, 10), (85, 11)
# In the order of the bits that say which of them follow.
PROPERTIES = (
    *("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to"),
    *("expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id"),
)


@dataclass(frozen=True)
class Message:
    """What is published, where to: bytes as they stand on the wire, each property with its length before it."""

    body: bytes
    key: bytes = b"task.failed"
    exchange: bytes = b"celeryev"
    properties: Mapping[str, bytes] = field(default_factory=dict)


class Refused(Exception):
    """The broker closed the channel or the connection, with this reason."""


def short(text: bytes) -> bytes:
    """A short string, cut to what it can hold."""
    return struct.pack("B", len(text[:255])) + text[:255]


def long(text: bytes) -> bytes:
    """A long string."""
    return struct.pack(">I", len(text)) + text


def table(*fields: tuple[bytes, bytes]) -> bytes:
    """A table of names and values; each value begins with the letter of its type."""
    return long(b"".join(short(name) + value for name, value in fields))


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + FRAME_END


def _method(channel: int, method: tuple[int, int], arguments: bytes) -> bytes:
    return _frame(METHOD, channel, struct.pack(">HH", *method) + arguments)


def _header(message: Message) -> bytes:
    flags, values = 0, b""
    for bit, name in enumerate(PROPERTIES):
        if name in message.properties:
            flags |= 1 << (15 - bit)
            values += message.properties[name]
    return struct.pack(">HHQH", PUBLISH[0], 0, len(message.body), flags) + values


class Wire:
    """A connection with one channel that confirms what it takes."""

    def __init__(self, url: str, timeout_seconds: float = 60.0) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout_seconds)
        self._read = b""
        self._sent = 0
        # Confirmed: all tags up to ``below``, and single ones above it.
        self._below, self._single = 0, set[int]()
        self._socket.sendall(b"AMQP\0\0\x09\x01")
        self._expect(START)
        login = f"\0{parts.username}\0{parts.password}".encode()
        self._send(0, START_OK, table() + short(b"PLAIN") + long(login) + short(b"en_US"))
        self._expect(TUNE)
        self._send(0, TUNE_OK, struct.pack(">HIH", 1, FRAME_MAX, 0))
        self._send(0, OPEN, short(unquote(parts.path[1:]).encode()) + short(b"") + b"\0")
        self._expect(OPEN_OK)
        self._send(1, CHANNEL_OPEN, short(b""))
        self._expect(CHANNEL_OPEN_OK)
        self._send(1, SELECT, b"\0")
        self._expect(SELECT_OK)

    def publish(self, message: Message) -> None:
        """Send a message. Whether the broker took it, ``wait_for_confirms`` says."""
        arguments = struct.pack(">H", 0) + short(message.exchange) + short(message.key) + b"\0"
        chunk = FRAME_MAX - 8
        bodies = (message.body[at : at + chunk] for at in range(0, len(message.body), chunk))
        frames = _method(1, PUBLISH, arguments) + _frame(HEADER, 1, _header(message))
        try:
            self._socket.sendall(frames + b"".join(_frame(BODY, 1, body) for body in bodies))
        except ConnectionError as error:
            raise Refused(str(error)) from error
        self._sent += 1

    def wait_for_confirms(self, most: int = 0) -> None:
        """Wait until at most so many messages are not confirmed. Raises ``Refused``."""
        while self._sent - self._below - len(self._single) > most:
            method, arguments = self._next()
            if method == NACK:
                raise Refused("negatively acknowledged")
            if method == ACK:
                tag, multiple = struct.unpack(">QB", arguments[:9])
                self._single.add(tag)
                if multiple:
                    self._below = tag
                    self._single = {each for each in self._single if each > tag}

    def close(self) -> None:
        """Cut the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, channel: int, method: tuple[int, int], arguments: bytes) -> None:
        self._socket.sendall(_method(channel, method, arguments))

    def _expect(self, method: tuple[int, int]) -> bytes:
        found, arguments = self._next()
        if found != method:
            raise Refused(f"the broker answers {found} where {method} was expected")
        return arguments

    def _next(self) -> tuple[tuple[int, int], bytes]:
        while True:
            kind, _, size = struct.unpack(">BHI", self._take(7))
            payload = self._take(size + 1)[:-1]
            if kind != METHOD:
                continue
            method = struct.unpack(">HH", payload[:4])
            if method in (CONNECTION_CLOSE, CHANNEL_CLOSE):
                code, length = struct.unpack(">HB", payload[4:7])
                raise Refused(f"{code} {payload[7 : 7 + length].decode(errors='replace')}")
            return method, payload[4:]

    def _take(self, size: int) -> bytes:
        while len(self._read) < size:
            try:
                data = self._socket.recv(65_536)
            except OSError as error:
                raise Refused(str(error)) from error
            if not data:
                raise Refused("the broker cut the connection")
            self._read += data
        taken, self._read = self._read[:size], self._read[size:]
        return taken
