"""Opens what ``interface`` describes, for the broker that the Celery application is configured with.

What speaks to Redis is imported where it is opened: its client takes 7 MB in each service on RabbitMQ.
"""

from __future__ import annotations

from celery import Celery

from swh_sched_runner.broker.amqp import event_queue
from swh_sched_runner.broker.amqp.consumer import AmqpConsumer
from swh_sched_runner.broker.amqp.dead_letters import AmqpDeadLetters
from swh_sched_runner.broker.amqp.event_queue import declare_events
from swh_sched_runner.broker.amqp.heartbeats import AmqpHeartbeats
from swh_sched_runner.broker.amqp.inspector import AmqpInspector
from swh_sched_runner.broker.amqp.marker import AmqpMarker
from swh_sched_runner.broker.amqp.publisher import AmqpPublisher
from swh_sched_runner.broker.celery.app import kind_of
from swh_sched_runner.broker.celery.messages import SizeLimit
from swh_sched_runner.broker.interface import (
    MAX_EVENT_BYTES,
    DeadLetters,
    EventConsumer,
    EventMarker,
    HeartbeatConsumer,
    Publisher,
    QueueInspector,
)
from swh_sched_runner.config.settings import BrokerSettings


def open_publisher(
    app: Celery, settings: BrokerSettings, session_id: int, *, limit: SizeLimit | None = None
) -> Publisher:
    """The publishing connection of a dispatcher session. ``limit`` outlives it and keeps what the broker said of sizes.

    Raises ``BrokerUnavailable``, also while a former connection of the same session still lives, and ``SessionLost``
    when another runner has taken this one for gone. On RabbitMQ the event queue is declared first (``QueueRefused``).
    """
    limit = limit or SizeLimit()
    match kind_of(app):
        case "redis":
            from swh_sched_runner.broker.redis.publisher import RedisPublisher

            return RedisPublisher(app, session_id, limit)
        case "amqp":
            publisher = AmqpPublisher(app, settings.confirm_timeout_seconds, session_id, limit)
            try:
                # A run whose message goes out before the queue is there would lose its events.
                declare_events(publisher.link, settings)
            except BaseException:
                publisher.close()
                raise
            return publisher


def open_consumer(
    app: Celery, settings: BrokerSettings, prefetch: int, max_bytes: int = MAX_EVENT_BYTES
) -> EventConsumer:
    """A consumer of the event queue, which is declared and from then on keeps events for good.

    ``prefetch`` bounds what RabbitMQ hands out unacknowledged. A body longer than ``max_bytes`` is cut off. Raises
    ``BrokerUnavailable``, and ``QueueRefused`` where the queue exists and was declared otherwise.
    """
    match kind_of(app):
        case "redis":
            from swh_sched_runner.broker.redis.consumer import RedisConsumer

            return RedisConsumer(app, settings, max_bytes)
        case "amqp":
            return AmqpConsumer(app, settings, prefetch, max_bytes)


def event_queue_name(app: Celery, settings: BrokerSettings) -> str:
    """What the event queue is called in the broker."""
    return event_queue.queue_name(settings) if kind_of(app) == "amqp" else settings.event_queue


def has_dead_letters(app: Celery) -> bool:
    """Whether the broker keeps what falls out of the event queue."""
    return kind_of(app) == "amqp"


def open_dead_letters(
    app: Celery, settings: BrokerSettings, prefetch: int, max_bytes: int = MAX_EVENT_BYTES
) -> DeadLetters:
    """A consumer of what fell out of the event queue, where there is such a thing. Errors as in ``open_consumer``."""
    return AmqpDeadLetters(app, settings, prefetch, max_bytes)


def open_heartbeats(app: Celery, settings: BrokerSettings) -> HeartbeatConsumer:
    """A consumer of workers' heartbeats. Raises ``BrokerUnavailable``.

    And ``QueueRefused`` where the queue exists and was declared otherwise.
    """
    match kind_of(app):
        case "redis":
            from swh_sched_runner.broker.redis.heartbeats import RedisHeartbeats

            return RedisHeartbeats(app, settings)
        case "amqp":
            return AmqpHeartbeats(app, settings)


def open_marker(app: Celery, settings: BrokerSettings) -> EventMarker:
    """What puts marks into the event queue, which is declared. Raises ``BrokerUnavailable``, ``QueueRefused``."""
    match kind_of(app):
        case "redis":
            from swh_sched_runner.broker.redis.marker import RedisMarker

            return RedisMarker(app, settings)
        case "amqp":
            return AmqpMarker(app, settings)


def open_inspector(app: Celery) -> QueueInspector:
    """A connection to look at queues. Raises ``BrokerUnavailable``."""
    match kind_of(app):
        case "redis":
            from swh_sched_runner.broker.redis.inspector import RedisInspector

            return RedisInspector(app)
        case "amqp":
            return AmqpInspector(app)
