"""Marks for the event queue on Redis or Valkey: at the end of the list where workers put their events."""

from __future__ import annotations

import base64
import uuid

import msgspec
import redis.exceptions
from celery import Celery

from swh_sched_runner.broker.celery.app import reason_of
from swh_sched_runner.broker.celery.events import mark_body
from swh_sched_runner.broker.celery.messages import PERSISTENT
from swh_sched_runner.broker.interface import EventMarker
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import QueueRefused


class RedisMarker(EventMarker):
    """The answer to the push is the confirm. The client connects anew by itself."""

    has_dead_letters = False

    def __init__(self, app: Celery, settings: BrokerSettings) -> None:
        self._link = RedisLink(app)
        self._queue = settings.event_queue

    def place(self, mark: str, *, dead_letters: bool) -> None:
        if dead_letters:
            raise QueueRefused(queue=self._queue, reason="on Redis it has no dead letters")
        with self._link.guard():
            try:
                self._link.client.lpush(self._link.key(self._queue), self._envelope(mark))
            except redis.exceptions.ResponseError as error:
                raise QueueRefused(queue=self._queue, reason=reason_of(error)) from error

    def _envelope(self, mark: str) -> bytes:
        """As kombu, with which workers push, makes it."""
        return msgspec.json.encode(
            {
                "body": base64.b64encode(mark_body(mark, dead_letters=False)).decode(),
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": {},
                "properties": {
                    "delivery_mode": PERSISTENT,
                    "delivery_info": {"exchange": "", "routing_key": self._queue},
                    "priority": 0,
                    "body_encoding": "base64",
                    "delivery_tag": str(uuid.uuid4()),
                },
            }
        )

    def close(self) -> None:
        self._link.close()
