"""After all processes of a private Redis or Valkey died: what they had in hand, and what still waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from celery import Celery

from swh_sched_runner.broker.celery.app import kind_of
from swh_sched_runner.broker.redis import consumer as redis_consumer
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.config.settings import BrokerSettings

PAGE = 1_000


class _Headers(msgspec.Struct):
    id: str


class _Envelope(msgspec.Struct):
    headers: _Headers


_envelope = msgspec.json.Decoder(_Envelope)


def restore_unacked(app: Celery, settings: BrokerSettings) -> int:
    """Put everything that dead workers and listeners had in hand back into its queues; how many messages that were.

    Only while none of them lives: what a living one holds would be delivered twice. Does nothing on other brokers,
    where that is the broker's own business. Raises ``BrokerUnavailable``.
    """
    if kind_of(app) != "redis":
        return 0
    link = RedisLink(app)
    try:
        with link.guard():
            return _restore_tasks(link) + _restore_events(link, settings.event_queue)
    finally:
        link.close()


def _restore_tasks(link: RedisLink) -> int:
    channel: Any = link.channel
    held = int(link.client.zcard(link.key(channel.unacked_index_key)))
    if held:
        # A worker that died while it did the same left its lock.
        link.client.delete(link.key(channel.unacked_mutex_key))
        channel.visibility_timeout = 0
        channel.qos.restore_visible(num=None, interval=1)
    return held


def _restore_events(link: RedisLink, queue: str) -> int:
    waiting, held, times, _ = redis_consumer.keys(link, queue)
    messages = link.client.hvals(held)
    if messages:
        with link.client.pipeline(transaction=True) as pipe:
            pipe.rpush(waiting, *messages)
            pipe.delete(held, times)
            pipe.execute()
    return len(messages)


def waiting_ids(app: Celery, queues: Iterable[str]) -> set[str]:
    """The ids of the task messages that lie ready in ``queues``, on Redis; they stay there.

    Raises ``BrokerUnavailable``.
    """
    link = RedisLink(app)
    try:
        with link.guard():
            return {
                identifier
                for queue in queues
                for key in link.lists(queue)
                for message in _messages(link, key)
                if (identifier := identifier_of(message)) is not None
            }
    finally:
        link.close()


def _messages(link: RedisLink, key: str) -> Iterable[bytes | str]:
    for at in range(0, int(link.client.llen(key)), PAGE):
        yield from link.client.lrange(key, at, at + PAGE - 1)


def identifier_of(message: bytes | str) -> str | None:
    """The id of the task that a message in kombu's envelope is for; None where it is none."""
    try:
        return _envelope.decode(message).headers.id
    except msgspec.MsgspecError:
        return None
