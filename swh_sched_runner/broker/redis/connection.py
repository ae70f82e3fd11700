"""Redis and Valkey as kombu uses them: its connection, its keys, one script at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import redis
import redis.exceptions
from celery import Celery

from swh_sched_runner.broker.celery.app import connect, reason_of
from swh_sched_runner.exc import BrokerUnavailable, DepthUnreadable

SOCKET_SECONDS = 20.0


class RedisLink:
    """A client on kombu's own connection settings (TLS, Sentinel, key prefix, priorities), for one thread.

    A command is never tried twice by itself: a push that is repeated is a task that runs twice.
    """

    def __init__(self, app: Celery) -> None:
        patience = {"socket_timeout": SOCKET_SECONDS, "socket_connect_timeout": SOCKET_SECONDS}
        configured = app.conf.broker_transport_options
        self._connection = connect(app, transport_options=patience | configured | {"retry_on_timeout": False})
        with self.guard():
            self.channel = cast(Any, self._connection.default_channel)
        self.client: redis.Redis = redis.Redis(connection_pool=self.channel.pool)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn what the connection or the server says into ``BrokerUnavailable``."""
        try:
            yield
        except (redis.exceptions.RedisError, OSError) as error:
            raise BrokerUnavailable(reason=reason_of(error)) from error

    def key(self, name: str) -> str:
        """The key that kombu uses for ``name``."""
        return f"{self.channel.global_keyprefix}{name}"

    def lists(self, queue: str) -> list[str]:
        """The lists that a queue consists of, one per priority; the first takes messages without one."""
        return [self.key(self.channel._q_for_pri(queue, step)) for step in self.channel.priority_steps]

    def close(self) -> None:
        """End the connections."""
        with contextlib.suppress(Exception):
            self._connection.release()


def depth(link: RedisLink, queue: str) -> int:
    """Messages that are ready in ``queue``; one that doesn't exist has none. Raises ``DepthUnreadable``."""
    with link.guard():
        try:
            with link.client.pipeline(transaction=True) as pipe:
                for key in link.lists(queue):
                    pipe.llen(key)
                return sum(pipe.execute())
        except redis.exceptions.ResponseError as error:
            raise DepthUnreadable(queue=queue, reason=reason_of(error)) from error
