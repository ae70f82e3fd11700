"""The dead-letter queue of the event queue, on a connection of its own."""

from __future__ import annotations

import time

from celery import Celery

from swh_sched_runner.broker.amqp.connection import AmqpLink, counts
from swh_sched_runner.broker.amqp.consumer import DEAD_SUFFIX, declare_events
from swh_sched_runner.broker.amqp.deliveries import DeliveryFrames
from swh_sched_runner.broker.interface import DeadLetters, Delivery
from swh_sched_runner.config.settings import BrokerSettings

# What a frame holds unless the broker is told otherwise: why a message died may stand behind anything.
HEADER_BYTES = 131_072


class AmqpDeadLetters(DeadLetters):
    """At most ``prefetch`` messages are in hand."""

    def __init__(self, app: Celery, settings: BrokerSettings, prefetch: int, max_bytes: int) -> None:
        self._link = AmqpLink(app)
        self._queue = settings.event_queue
        self._received: list[Delivery] = []
        try:
            declare_events(self._link, settings)
            with self._link.guard():
                self._channel = self._link.channel()
                DeliveryFrames(
                    self._link.connection, self._channel.channel_id, max_bytes, self._received.append, HEADER_BYTES
                )
                self._channel.basic_qos(0, prefetch, False)
                self._channel.basic_consume(settings.event_queue + DEAD_SUFFIX)
        except BaseException:
            self._link.close()
            raise

    def receive(self, timeout_seconds: float) -> list[Delivery]:
        deadline = time.monotonic() + timeout_seconds
        self._link.check()
        while not self._received and (left := deadline - time.monotonic()) > 0:
            self._link.beat()
            self._link.drain(min(left, 1.0))
        taken = self._received[:]
        self._received.clear()
        return taken

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        with self._link.guard():
            for delivery in deliveries:
                self._channel.basic_ack(delivery.tag)

    def lengths(self) -> dict[str, int]:
        found = {queue: counts(self._link, queue) for queue in (self._queue, self._queue + DEAD_SUFFIX)}
        return {queue: counted[0] for queue, counted in found.items() if counted is not None}

    def close(self) -> None:
        self._link.close()
