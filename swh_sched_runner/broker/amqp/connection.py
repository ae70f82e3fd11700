"""One connection to RabbitMQ, and what is asked of queues over it."""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import amqp
import amqp.exceptions
import amqp.spec
from celery import Celery

from swh_sched_runner.broker.amqp.frames import FrameReader
from swh_sched_runner.broker.celery.app import connect, reason_of
from swh_sched_runner.exc import BrokerUnavailable, DepthUnreadable, QueueRefused

LONGEST_NAME = 255  # bytes, of anything that AMQP calls a short string
ANSWER_SECONDS = 20.0
CLOSE_SECONDS = 2.0
HEARTBEAT_EVERY_SECONDS = 1.0
# py-amqp's own second is less than a busy broker may pause its reading; every connection cut is a batch in doubt.
SOCKET_SETTINGS = {socket.TCP_USER_TIMEOUT: 10_000} if hasattr(socket, "TCP_USER_TIMEOUT") else {}


class AmqpLink:
    """A connection that, once broken, stays broken: every call then raises ``BrokerUnavailable``.

    ``control`` is for questions and declarations: an answer of "no" closes the channel it came on, and py-amqp opens it
    again by itself. For one thread.
    """

    def __init__(self, app: Celery) -> None:
        configured = app.conf.broker_transport_options.get("socket_settings") or {}
        options = {"socket_settings": SOCKET_SETTINGS | configured}
        self.connection: amqp.Connection = connect(app, transport_options=options).connection
        # Without limits a question waits for as long as the broker, short of memory or disk, doesn't read: py-amqp's
        # own begin anew with each heartbeat that comes meanwhile.
        self.connection.sock.settimeout(ANSWER_SECONDS)
        self.connection.drain_events = self._drain_events
        self.connection.on_blocked = self._set_blocked
        self.connection.on_unblocked = self._set_unblocked
        self._frames: FrameReader | None = None
        self._poll = select.poll()
        self._poll.register(self.connection.sock, select.POLLIN)
        self._answer_seconds = ANSWER_SECONDS
        self.blocked: str | None = None
        self.broken: str | None = None
        self._next_heartbeat = 0.0
        with self.guard():
            self.control: amqp.Channel = self.connection.channel()

    def channel(self) -> amqp.Channel:
        """A new channel whose end is the connection's; call it under ``guard``.

        py-amqp would open it again, without confirms, and raise the broker's "no" where something else was asked.
        """
        channel = self.connection.channel()
        channel._callbacks[amqp.spec.Channel.Close] = self._channel_was_closed
        return channel

    def read_frames(self) -> FrameReader:
        """From now on read the connection in large pieces; deliveries can then be had without py-amqp."""
        self._frames = FrameReader(self.connection)
        return self._frames

    def _channel_was_closed(self, code: int, text: str, class_id: int, method_id: int) -> None:
        method = amqp.exceptions.METHOD_NAME_MAP.get((class_id, method_id), "channel")
        raise amqp.exceptions.ConnectionError(f"{method}: ({code}) {text}")

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn the end of the connection into ``BrokerUnavailable``, for now and for ever.

        What the broker refuses on a channel passes through as py-amqp's ``ChannelError``.
        """
        self.require()
        try:
            yield
        except amqp.exceptions.ChannelError:
            raise
        except (*amqp.Connection.connection_errors, AttributeError, KeyError) as error:
            # Attribute and key errors are py-amqp's when a frame meets a connection that was just closed.
            self.abort(reason_of(error))
            raise BrokerUnavailable(reason=self.broken) from error

    def require(self) -> None:
        """Raise ``BrokerUnavailable`` if the connection is known to be broken."""
        if self.broken is not None:
            raise BrokerUnavailable(reason=self.broken)

    def check(self) -> None:
        """Send heartbeats that are due and take in what has arrived. Call it every few seconds."""
        self.beat()
        self.drain(0)

    def beat(self) -> None:
        """Send a heartbeat if one is due; notice that the broker's don't come any more."""
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_EVERY_SECONDS
            with self.guard():
                self.connection.heartbeat_tick()

    def drain(self, timeout_seconds: float) -> None:
        """Wait for something to arrive and take in all that has."""
        with self.guard(), self._no_channel_may_fail():
            if self._arrived(timeout_seconds):
                self._read()
                while self._arrived(0):
                    self._read()

    def next_method(self, timeout_seconds: float) -> bool:
        """Wait for one message, or other method, and take it in; False if none came."""
        with self.guard(), self._no_channel_may_fail():
            return self._next_method(timeout_seconds)

    def _next_method(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while self._arrived(max(0.0, deadline - time.monotonic())):
            if self._read():  # False: part of a message, or a heartbeat
                return True
        return False

    def _drain_events(self, timeout: float | None = None) -> None:
        seconds = self._answer_seconds if timeout is None else timeout
        if not self._next_method(seconds):
            raise TimeoutError(f"no answer within {seconds:g} s")

    def _read(self) -> bool:
        return self.connection.blocking_read() if self._frames is None else self._frames.read()

    def _arrived(self, timeout_seconds: float) -> bool:
        if self._frames is not None and self._frames.waiting:
            return True
        sock = self.connection.sock
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        return bool(self._poll.poll(timeout_seconds * 1000))

    @contextlib.contextmanager
    def _no_channel_may_fail(self) -> Iterator[None]:
        # Nothing was asked: the broker closed the channel that publishes or consumes, and what it had is open.
        try:
            yield
        except amqp.exceptions.ChannelError as error:
            raise amqp.exceptions.ConnectionError(reason_of(error)) from error

    def abort(self, reason: str) -> None:
        """Close the socket as it is. What was written and not confirmed may or may not have arrived."""
        if self.broken is None:
            self.broken = reason
            with contextlib.suppress(Exception):
                self.connection.collect()

    def close(self) -> None:
        """Close politely: the broker has then taken in all that was written."""
        if self.broken is None:
            self._answer_seconds = CLOSE_SECONDS
            with contextlib.suppress(Exception):
                self.connection.close()
            self.abort("it was closed")

    def _set_blocked(self, reason: Any) -> None:
        self.blocked = reason_of(Exception(reason))

    def _set_unblocked(self) -> None:
        self.blocked = None

    def hold(self, queue: str) -> bool:
        """Declare an exclusive queue: it is this connection's until it ends. False while it is another's.

        Raises ``QueueRefused`` where the user may not.
        """
        with self.guard():
            try:
                self.control.queue_declare(_short(queue), exclusive=True, durable=False, auto_delete=False)
            except amqp.exceptions.ResourceLocked:
                return False
            except amqp.exceptions.ChannelError as error:
                raise QueueRefused(queue=queue, reason=reason_of(error)) from error
            return True

    def drop(self, queue: str) -> None:
        """Delete a queue that this connection holds."""
        with self.guard(), contextlib.suppress(amqp.exceptions.ChannelError):
            self.control.queue_delete(_short(queue))


def _short(name: str) -> str:
    if len(name.encode()) <= LONGEST_NAME:
        return name
    return f"swh-sched-runner.{hashlib.sha256(name.encode()).hexdigest()}"


def depth(link: AmqpLink, queue: str) -> int | None:
    """Messages that are ready in ``queue``, None where it doesn't exist. Raises ``DepthUnreadable``."""
    counted = counts(link, queue)
    return None if counted is None else counted[0]


def counts(link: AmqpLink, queue: str) -> tuple[int, int] | None:
    """Ready messages and consumers of ``queue``, None where it doesn't exist. Raises ``DepthUnreadable``."""
    if len(queue.encode()) > LONGEST_NAME:
        raise DepthUnreadable(queue=queue, reason=f"its name is longer than {LONGEST_NAME} bytes")
    with link.guard():
        try:
            found = link.control.queue_declare(queue, passive=True)
            return int(found.message_count), int(found.consumer_count)
        except amqp.exceptions.NotFound:
            return None
        except amqp.exceptions.ChannelError as error:
            raise DepthUnreadable(queue=queue, reason=reason_of(error)) from error


def exists(link: AmqpLink, queue: str) -> bool | None:
    """Whether there is such a queue, be it another connection's own; None where the broker doesn't say."""
    try:
        return counts(link, queue) is not None
    except DepthUnreadable as error:
        return True if isinstance(error.__cause__, amqp.exceptions.ResourceLocked) else None


def declare(link: AmqpLink, app: Celery, queue: str) -> None:
    """Declare ``queue`` as a worker with ``-Q queue`` would, arguments from the configuration."""
    if len(queue.encode()) > LONGEST_NAME:
        raise QueueRefused(queue=queue, reason=f"its name is longer than {LONGEST_NAME} bytes")
    with link.guard():
        try:
            app.amqp.queues[queue](link.control).declare()
        except amqp.exceptions.ChannelError as error:
            raise QueueRefused(queue=queue, reason=reason_of(error)) from error
