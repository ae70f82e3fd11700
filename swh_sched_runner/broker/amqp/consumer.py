"""Events from RabbitMQ, over py-amqp as it is: kombu's consumer takes twice the time a message."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import amqp.exceptions
from celery import Celery

from swh_sched_runner import worker
from swh_sched_runner.broker.amqp.connection import AmqpLink
from swh_sched_runner.broker.amqp.deliveries import DeliveryFrames
from swh_sched_runner.broker.celery.app import reason_of
from swh_sched_runner.broker.interface import BATCH_BYTES, Delivery, EventConsumer, bytes_of
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import QueueRefused

BEAT_SECONDS = 1.0
DEAD_SUFFIX = ".dead"
# Two million events, and below what the smallest sensible disk alarm leaves; then the oldest go.
MAX_BYTES = 1_073_741_824
MAX_DEAD_BYTES = 67_108_864


def event_queue_arguments(queue: str) -> dict[str, Any]:
    """How the event queue is declared unless the configuration (``broker.queues``) says otherwise."""
    return {
        # Celery's events are not persistent: over a broker's restart only a quorum queue keeps them.
        "x-queue-type": "quorum",
        "x-overflow": "drop-head",
        "x-max-length-bytes": MAX_BYTES,
        # Large: what can't be read is rejected by the listener. Not -1, with which RabbitMQ 3.10 drops everything when
        # a consumer dies.
        "x-delivery-limit": 1_000_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue + DEAD_SUFFIX,
    }


def declare_events(link: AmqpLink, settings: BrokerSettings) -> None:
    """Make the event queue; from now on it keeps events, whether somebody listens or not. Raises ``QueueRefused``."""
    queue = settings.event_queue
    configured = settings.queues.get(queue)
    arguments = event_queue_arguments(queue) if configured is None else dict(configured.arguments)
    dead = {"x-queue-type": "quorum", "x-overflow": "drop-head", "x-max-length-bytes": MAX_DEAD_BYTES}
    with link.guard():
        try:
            link.control.queue_declare(queue + DEAD_SUFFIX, durable=True, auto_delete=False, arguments=dead)
            link.control.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
            link.control.exchange_declare(settings.event_exchange, "topic", durable=True, auto_delete=False)
            for key in worker.EVENT_KEYS:
                link.control.queue_bind(queue, settings.event_exchange, key)
        except amqp.exceptions.ChannelError as error:
            raise QueueRefused(queue=queue, reason=reason_of(error)) from error


class AmqpConsumer(EventConsumer):
    """What it doesn't read yet waits in the socket, and then in the broker."""

    def __init__(self, app: Celery, settings: BrokerSettings, prefetch: int, max_bytes: int) -> None:
        self._link = AmqpLink(app)
        self._received: list[Delivery] = []
        self._received_bytes = 0
        self._next_beat = 0.0
        self._in_hand: dict[int, None] = {}  # tags in the order of delivery
        self._channel = self._link.control
        try:
            declare_events(self._link, settings)
            with self._link.guard():
                DeliveryFrames(self._link.connection, self._channel.channel_id, max_bytes, self._take)
                self._channel.basic_qos(0, prefetch, False)
                self._channel.basic_consume(settings.event_queue)
        except BaseException:
            self._link.close()
            raise

    def _take(self, delivery: Delivery) -> None:
        self._received.append(delivery)
        self._received_bytes += len(delivery.body)
        self._in_hand[delivery.tag] = None

    def receive(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        deadline = time.monotonic() + timeout_seconds
        self._link.require()
        self.keep_alive()
        while (
            len(self._received) < limit
            and self._received_bytes < BATCH_BYTES
            and (left := deadline - time.monotonic()) > 0
        ):
            self._link.beat()
            self._link.next_method(min(left, 1.0))
        taken, self._received = self._received[:limit], self._received[limit:]
        self._received_bytes = bytes_of(self._received)
        return taken

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        done = {delivery.tag for delivery in deliveries}
        before_the_first_kept = list(itertools.takewhile(done.__contains__, self._in_hand))
        behind = sorted(done.difference(before_the_first_kept))
        with self._link.guard():
            if before_the_first_kept:
                self._channel.basic_ack(before_the_first_kept[-1], multiple=True)
            for tag in behind:
                self._channel.basic_ack(tag)
        for tag in done:
            self._in_hand.pop(tag, None)

    def keep_alive(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + BEAT_SECONDS
            self._link.beat()
            self._link.next_method(0)  # the broker's own heartbeats count as soon as they are read

    def close(self) -> None:
        self._link.close()
