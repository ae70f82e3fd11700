"""Sending task messages: one connection per runner, one filler per queue, and only what is confirmed counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from celery import Celery

from swh_sched_runner.broker.amqp.consumer import declare_events
from swh_sched_runner.broker.amqp.publisher import AmqpPublisher
from swh_sched_runner.broker.celery.app import kind_of
from swh_sched_runner.broker.celery.messages import Message, SizeLimit
from swh_sched_runner.broker.memory import MemoryPublisher
from swh_sched_runner.broker.redis.publisher import RedisPublisher
from swh_sched_runner.broker.sent import Sent
from swh_sched_runner.config.settings import BrokerSettings

__all__ = ["Filler", "Message", "Publisher", "Sent", "SizeLimit", "open_publisher"]


class Filler(Protocol):
    """The right to send to one queue, alone among the runners. ``depth`` is what ``room`` has read."""

    depth: int | None

    def room(self) -> int | None:
        """How many more messages the queue takes: its limit less those that are ready, None where it has no limit.

        The queue is declared where it is missing. Raises ``QueueRefused`` and ``DepthUnreadable``: then send nothing.
        Ask while nothing of this filler's is unconfirmed.
        """

    def write(self, messages: Sequence[Message], check_session: Callable[[], None]) -> Sent:
        """Send, without waiting for the broker's confirms: those come during the next calls of the publisher.

        ``check_session`` is called before each chunk and stops everything by raising. A broken connection does not
        raise here: it does on the next use. What can never be sent is left out: ``sent.unsendable``.
        """

    def settle(self, sent: Sent) -> None:
        """Wait until the broker has said all that it will say of these messages: ``sent.done`` then.

        A broker that stays silent too long is given up, and so is the connection; like a broken one it does not raise
        here.
        """


class Publisher(Protocol):
    """The publishing connection of one runner. For one thread; after ``BrokerUnavailable`` open another."""

    def fill(self, queue: str, max_queue_length: int | None) -> AbstractContextManager[Filler | None]:
        """Be the one that fills ``queue``; None while another runner is. ``max_queue_length`` is None for no limit."""

    def session_is_gone(self, session_id: int) -> bool:
        """Whether the session's connection can send nothing any more; from now to ``release`` it can't come back."""

    def connection_is_gone(self, session_id: int) -> bool:
        """The same where it can be seen from outside, without barring a living session; call ``release`` afterwards.

        False on Redis, where connections hold nothing.
        """

    def release(self, session_id: int) -> None:
        """Forget a session that was found gone, when nothing that was its is left."""

    def check(self) -> None:
        """Keep the connection alive; every few seconds. Raises ``BrokerUnavailable`` where it is gone."""

    def close(self) -> None:
        """End the connection; never raises."""


def open_publisher(
    app: Celery, settings: BrokerSettings, session_id: int, *, limit: SizeLimit | None = None
) -> Publisher:
    """The publishing connection of a dispatcher session. ``limit`` outlives it and keeps what the broker said of sizes.

    Raises ``BrokerUnavailable``, also while a former connection of the same session still lives, and ``SessionLost``
    when another runner has taken this one for gone. On RabbitMQ the event queue is declared first (``QueueRefused``).
    """
    limit = limit or SizeLimit()
    match kind_of(app):
        case "amqp":
            publisher = AmqpPublisher(app, settings.confirm_timeout_seconds, session_id, limit)
            try:
                # A run whose message goes out before the queue is there would lose its events.
                declare_events(publisher.link, settings)
            except BaseException:
                publisher.close()
                raise
            return publisher
        case "redis":
            return RedisPublisher(app, session_id, limit)
        case "memory":
            return MemoryPublisher(app, session_id, limit)
