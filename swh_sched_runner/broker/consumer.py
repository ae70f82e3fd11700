"""Taking events from the queue that keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from celery import Celery

from swh_sched_runner.broker.amqp.consumer import AmqpConsumer
from swh_sched_runner.broker.celery.app import kind_of
from swh_sched_runner.broker.delivery import MAX_EVENT_BYTES, Delivery
from swh_sched_runner.broker.memory import MemoryConsumer
from swh_sched_runner.broker.redis.consumer import RedisConsumer
from swh_sched_runner.config.settings import BrokerSettings

__all__ = ["Delivery", "EventConsumer", "open_consumer"]


class EventConsumer(Protocol):
    """Messages with events, each in hand until it is acknowledged: then they are gone, else they come back.

    For one thread; after ``BrokerUnavailable`` open another, and what was in hand comes again.
    """

    def receive(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Up to ``limit`` messages: as soon as there are so many, or so many bytes, else those that came in time.

        A message may hold several events. Call it every few seconds, it keeps the connection alive as well. More than
        the prefetch is never in hand. Raises ``BrokerUnavailable``.
        """

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Let go of these, which were applied; what was received before them and isn't among them stays in hand."""

    def keep_alive(self) -> None:
        """Keep the connection, and what is in hand, while nothing is received; at least every second.

        Raises ``BrokerUnavailable``.
        """

    def close(self) -> None:
        """End the connection; never raises. What is in hand goes back."""


def open_consumer(
    app: Celery, settings: BrokerSettings, prefetch: int, max_bytes: int = MAX_EVENT_BYTES
) -> EventConsumer:
    """A consumer of ``broker.event_queue``, which is declared and from then on keeps events for good.

    ``prefetch`` bounds what RabbitMQ hands out unacknowledged. A body longer than ``max_bytes`` is cut off. Several
    consumers share the queue. Raises ``BrokerUnavailable``, and ``QueueRefused`` where the queue exists and was
    declared otherwise.
    """
    match kind_of(app):
        case "amqp":
            return AmqpConsumer(app, settings, prefetch, max_bytes)
        case "redis":
            return RedisConsumer(app, settings, max_bytes)
        case "memory":
            return MemoryConsumer(app, settings, max_bytes)
