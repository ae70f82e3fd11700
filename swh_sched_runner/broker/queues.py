"""Lengths of queues, and their declaration, on a connection of its own."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import attrs
from celery import Celery

from swh_sched_runner.broker.amqp import connection as amqp_connection
from swh_sched_runner.broker.amqp.connection import AmqpLink
from swh_sched_runner.broker.celery.app import connect, kind_of
from swh_sched_runner.broker.redis import connection as redis_connection
from swh_sched_runner.broker.redis import search as redis_search
from swh_sched_runner.broker.redis.connection import RedisLink


@attrs.define(slots=True, frozen=True)
class Look:
    """A queue at one point in time: ``depth`` messages are ready, ``consumers`` (None: can't be known) take from it.

    ``holds``: whether a given message is among them, ``ahead``: how many are before it; None where that is unknown.
    """

    queue: str
    exists: bool
    depth: int
    consumers: int | None = None
    holds: bool | None = None
    ahead: int | None = None


class Queues:
    """A look at the broker's queues. Opens its connection when first asked, and another after ``BrokerUnavailable``.

    Messages that workers hold unacknowledged are not counted. For one thread; close it, or use it in ``with``.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._kind = kind_of(app)
        self._amqp: AmqpLink | None = None
        self._redis: RedisLink | None = None

    def depth(self, queue: str) -> int:
        """Messages that are ready in ``queue``, 0 where it doesn't exist; declares nothing.

        Raises ``DepthUnreadable`` where the broker refuses to say, ``BrokerUnavailable``.
        """
        match self._kind:
            case "amqp":
                return amqp_connection.depth(self._amqp_link(), queue) or 0
            case "redis":
                return redis_connection.depth(self._redis_link(), queue)
            case "memory":
                with connect(self._app) as connection:
                    channel = connection.default_channel
                    return int(channel._size(queue)) if channel._has_queue(queue) else 0

    def look(self, queue: str, message: str | None = None) -> Look:
        """Depth and consumers of ``queue``, and what can be told of the message with this id. Declares nothing.

        RabbitMQ counts consumers and shows no messages. Redis shows messages and knows no consumers; queues are
        always there. Raises ``DepthUnreadable``, ``BrokerUnavailable``.
        """
        match self._kind:
            case "amqp":
                counted = amqp_connection.counts(self._amqp_link(), queue)
                ready, consumers = counted or (0, 0)
                return Look(queue, counted is not None, ready, consumers, None if ready or message is None else False)
            case "redis":
                link = self._redis_link()
                found = redis_search.find(link, queue, message) if message is not None else redis_search.Found(None)
                ready = redis_connection.depth(link, queue)
                return Look(queue, True, ready, None, found.holds, found.ahead)
            case "memory":
                ready = self.depth(queue)
                return Look(queue, True, ready, None, None if ready or message is None else False)

    def worker_lives(self, hostname: str) -> bool | None:
        """Whether a worker of this name is connected, by the queue it is controlled through; None if unknown.

        Only RabbitMQ tells. A worker without remote control has no such queue.
        """
        if self._kind != "amqp":
            return None
        return amqp_connection.exists(self._amqp_link(), f"{hostname}.{self._app.control.mailbox.namespace}.pidbox")

    def declare(self, queue: str) -> None:
        """Make ``queue`` as a worker with ``-Q queue`` does, with the configured arguments; on RabbitMQ.

        Raises ``QueueRefused`` where it exists and differs. Elsewhere queues come into being with their first message.
        """
        if self._kind == "amqp":
            amqp_connection.declare(self._amqp_link(), self._app, queue)

    def close(self) -> None:
        """End the connection."""
        for link in (self._amqp, self._redis):
            if link is not None:
                link.close()
        self._amqp = self._redis = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _amqp_link(self) -> AmqpLink:
        if self._amqp is None or self._amqp.broken is not None:
            self._amqp = AmqpLink(self._app)
        return self._amqp

    def _redis_link(self) -> RedisLink:
        if self._redis is None:
            self._redis = RedisLink(self._app)
        return self._redis
