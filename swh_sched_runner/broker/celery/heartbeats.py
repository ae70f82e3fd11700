"""Heartbeats of workers: in a queue of their own, so that a backlog of events makes no living worker look dead.

Over kombu, on every broker: some hundred heartbeats a second need no more.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from celery import Celery
from celery.events.event import get_exchange
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from kombu.messaging import Consumer

from swh_sched_runner.broker.celery.app import connect, reason_of
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable, QueueRefused

HEARTBEAT_KEY = "worker.heartbeat"
SUFFIX = ".heartbeats"
# A heartbeat that waited for longer says nothing of now.
TTL_SECONDS = 10.0
PREFETCH = 2_000


class HeartbeatConsumer:
    """Takes heartbeats out of their queue; what nobody takes in time is gone. For one thread.

    Once ``receive`` has raised ``BrokerUnavailable`` open another one. Several consumers share them; on Redis each gets
    all.
    """

    def __init__(self, app: Celery, settings: BrokerSettings) -> None:
        self._connection: Any = connect(app)
        self._bodies: list[bytes] = []
        self._errors = (
            OperationalError,
            OSError,
            *self._connection.connection_errors,
            *self._connection.channel_errors,
        )
        queue = Queue(
            settings.event_queue + SUFFIX,
            get_exchange(self._connection, name=settings.event_exchange),
            routing_key=HEARTBEAT_KEY,
            durable=False,
            auto_delete=True,
            message_ttl=TTL_SECONDS,
        )
        try:
            consumer = Consumer(self._connection.channel(), [queue], no_ack=True, on_message=self._take)
            consumer.consume()
        except self._connection.channel_errors as error:
            self.close()
            raise QueueRefused(queue=queue.name, reason=reason_of(error)) from error
        except self._errors as error:
            self.close()
            raise BrokerUnavailable(reason=reason_of(error)) from error

    def _take(self, message: Any) -> None:
        body = message.body
        self._bodies.append(body.encode() if isinstance(body, str) else bytes(body))

    def receive(self, seconds: float) -> list[bytes]:
        """The bodies that arrive within so many seconds, or the first few thousand. Raises ``BrokerUnavailable``."""
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0 and len(self._bodies) < PREFETCH:
                self._connection.heartbeat_check()
                try:
                    self._connection.drain_events(timeout=left)
                except TimeoutError:
                    break
        except self._errors as error:
            raise BrokerUnavailable(reason=reason_of(error)) from error
        taken, self._bodies = self._bodies, []
        return taken

    def close(self) -> None:
        """End the connection. Never raises."""
        with contextlib.suppress(Exception):
            self._connection.release()
