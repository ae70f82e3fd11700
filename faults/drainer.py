"""Stands for the workers: takes messages out of the queues, notes each, says how it ended, acknowledges; and looks on.

Plain AMQP. Both are processes of their own that live as long as the round, whatever becomes of the broker.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp

from faults import events

# Messages that a queue's consumer may hold: they are not ready any more, so others may take their place.
PREFETCH = 10
QUIET_SECONDS = 0.3
RETRY_SECONDS = 0.1
SAMPLE_SECONDS = 0.001
# A broker that is going down refuses what it is told; that comes again as well.
ERRORS = (*amqp.Connection.connection_errors, *amqp.Connection.channel_errors, amqp.exceptions.MessageNacked)


@dataclass(frozen=True)
class Speed:
    """How messages are taken: so many at a time, then a pause in which queues run full."""

    burst: int
    pause_seconds: float


def connect(url: str) -> amqp.Connection:
    """A connection without heartbeats to an amqp:// URL."""
    parts = urlsplit(url)
    connection = amqp.Connection(
        f"{parts.hostname}:{parts.port}",
        parts.username,
        parts.password,
        virtual_host=unquote(parts.path[1:]),
        connect_timeout=5,
    )
    connection.connect()
    return connection


class Drainer:
    """Takes and notes, at its speed until SIGUSR1, then as fast as it can; after SIGTERM until nothing is left."""

    def __init__(self, url: str, queues: Sequence[str], notes: Path, speed: Speed, telling: bool) -> None:
        """``telling``: it sends events, as workers do. A queue for them has to be there before."""
        self._url = url
        self._queues = queues
        self._telling = telling
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._speed: Speed | None = speed
        self._stopping = False
        self._taken: list[bytes] = []
        self._begun: list[str] = []
        self._last: dict[Any, int] = {}
        signal.signal(signal.SIGUSR1, self._hurry)
        signal.signal(signal.SIGTERM, self._stop)

    def run(self) -> None:
        """Take until told to stop."""
        while True:
            try:
                self._drain()
                return
            except ERRORS:  # what was noted and not acknowledged comes again, marked as redelivered
                time.sleep(RETRY_SECONDS)

    def _hurry(self, _: int, __: FrameType | None) -> None:
        self._speed = None

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._speed, self._stopping = None, True

    def _drain(self) -> None:
        self._taken, self._last, self._begun = [], {}, []
        with connect(self._url) as connection:
            for queue in self._queues:
                channel = connection.channel()
                channel.queue_declare(queue, durable=True, auto_delete=False)
                channel.basic_qos(0, PREFETCH, False)
                channel.basic_consume(queue, callback=partial(self._take, queue, channel))
            asking = connection.channel()
            saying = connection.channel()
            quiet_since = time.monotonic()
            in_burst = 0
            while True:
                arrived = self._take_what_comes(connection, saying)
                if arrived:
                    quiet_since = time.monotonic()
                elif self._stopping and time.monotonic() - quiet_since > QUIET_SECONDS and self._all_empty(asking):
                    return
                in_burst += arrived
                if self._speed is not None and in_burst >= self._speed.burst:
                    in_burst = 0
                    time.sleep(self._speed.pause_seconds)  # a signal doesn't end it

    def _take_what_comes(self, connection: amqp.Connection, saying: amqp.Channel) -> int:
        most = PREFETCH if self._speed is None else min(PREFETCH, self._speed.burst)
        timeout = 0.05
        while len(self._taken) < most:
            try:
                connection.drain_events(timeout=timeout)
            except TimeoutError:
                break
            timeout = 0.001
        # While the broker's confirm is waited for, more arrive.
        (taken, self._taken), (last, self._last) = (self._taken, []), (self._last, {})
        if taken:
            os.write(self._notes, b"".join(taken))
            self._tell(saying)
            for channel, tag in last.items():
                channel.basic_ack(tag, multiple=True)
        return len(taken)

    def _tell(self, saying: amqp.Channel) -> None:
        """Say how these tasks ended, before their messages are acknowledged: else it would be said by nobody."""
        begun, self._begun = self._begun, []
        if self._telling and begun:
            message = amqp.Message(
                events.body(begun), content_type="application/json", content_encoding="utf-8", delivery_mode=1
            )
            saying.basic_publish_confirm(message, exchange=events.EXCHANGE, routing_key=events.KEY)

    def _take(self, queue: str, channel: amqp.Channel, message: amqp.Message) -> None:
        identifier = message.properties["application_headers"]["id"]
        carried, redelivered = json.loads(message.body)[1], bool(message.delivery_info["redelivered"])
        subject = carried.get("n", carried.get("url", identifier)) if isinstance(carried, dict) else identifier
        note = [queue, identifier, subject, redelivered, time.time()]
        self._begun.append(identifier)
        self._taken.append(json.dumps(note).encode() + b"\n")
        self._last[channel] = message.delivery_tag

    def _all_empty(self, channel: amqp.Channel) -> bool:
        return not any(channel.queue_declare(queue, passive=True).message_count for queue in self._queues)


def drain(url: str, queues: Sequence[str], notes: Path, speed: Speed, telling: bool = False) -> None:
    """Be the drainer."""
    Drainer(url, queues, notes, speed, telling).run()


def watch(url: str, queues: Sequence[str], depths: Path) -> None:
    """Read the depth of every queue as fast as it goes, until SIGTERM; then write what was seen: depth to times."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    seen: dict[str, dict[int, int]] = {queue: {} for queue in queues}
    with connect(url) as connection:
        channel = connection.channel()
        for queue in queues:
            channel.queue_declare(queue, durable=True, auto_delete=False)
        while not stop:
            for queue, times in seen.items():
                depth = channel.queue_declare(queue, passive=True).message_count
                times[depth] = times.get(depth, 0) + 1
            time.sleep(SAMPLE_SECONDS)
    depths.write_text(json.dumps(seen))
