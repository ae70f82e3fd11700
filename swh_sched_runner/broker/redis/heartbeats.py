"""Heartbeats on Redis, where workers publish events to channels: what nobody takes at once is gone."""

from __future__ import annotations

import contextlib
import time

from celery import Celery

from swh_sched_runner.broker.interface import HEARTBEAT_BYTES, HEARTBEAT_KEY, MOST_HEARTBEATS, HeartbeatConsumer
from swh_sched_runner.broker.redis.connection import SOCKET_SECONDS, RedisLink
from swh_sched_runner.broker.redis.consumer import ENVELOPE_BYTES, body_of
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable

# Nobody need say anything on a channel: the server is asked whether it is there.
PING_SECONDS = 10.0
# How an event says that it is one, where the channel has all of them (``fanout_patterns`` off).
TYPE = b"worker-heartbeat"


class RedisHeartbeats(HeartbeatConsumer):
    """Each consumer gets all heartbeats. The channel is kombu's; kombu itself would end at an odd message."""

    def __init__(self, app: Celery, settings: BrokerSettings) -> None:
        self._link = RedisLink(app)
        self._heard = self._pinged = time.monotonic()
        try:
            with self._link.guard():
                topic = self._link.channel._get_publish_topic(settings.event_exchange, HEARTBEAT_KEY)
                self._subscription = self._link.client.pubsub(ignore_subscribe_messages=True)
                self._subscription.subscribe(self._link.key(topic))
        except BaseException:
            self._link.close()
            raise

    def receive(self, timeout_seconds: float) -> list[bytes]:
        deadline = time.monotonic() + timeout_seconds
        bodies: list[bytes] = []
        while len(bodies) < MOST_HEARTBEATS and (left := deadline - time.monotonic()) > 0:
            self._ping()
            with self._link.guard():
                message = self._subscription.get_message(timeout=left)
            if message is None:
                continue
            self._heard = time.monotonic()
            if message["type"] == "message" and len(message["data"]) <= HEARTBEAT_BYTES + ENVELOPE_BYTES:
                body = body_of(message["data"])
                if TYPE in body and len(body) <= HEARTBEAT_BYTES:
                    bodies.append(body)
        return bodies

    def _ping(self) -> None:
        now = time.monotonic()
        if now >= self._heard + SOCKET_SECONDS:
            raise BrokerUnavailable(reason=f"no answer within {SOCKET_SECONDS:g} s")
        if now >= max(self._heard, self._pinged) + PING_SECONDS:
            self._pinged = now
            with self._link.guard():
                self._subscription.ping()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._subscription.close()
        self._link.close()
