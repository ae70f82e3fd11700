"""Looking into queues, and taking messages out, as a worker would."""

from __future__ import annotations

from typing import Any

from celery import Celery

from swh_sched_runner.broker.celery.app import connect
from swh_sched_runner.broker.queues import Queues


def take(app: Celery, queue: str, limit: int = 1_000_000) -> list[Any]:
    """Take up to ``limit`` messages out of a queue: kombu's messages, acknowledged, in order; none if it is missing."""
    if not depth(app, queue):
        return []
    with connect(app) as connection:
        channel = connection.default_channel
        taken: list[Any] = []
        while len(taken) < limit:
            message = channel.basic_get(queue)
            if message is None:
                break
            message = channel.message_to_python(message)
            message.ack()
            taken.append(message)
        return taken


def ids_of(messages: list[Any]) -> list[str]:
    """The task ids of messages."""
    return [message.headers["id"] for message in messages]


def depth(app: Celery, queue: str) -> int:
    """How many messages lie ready in a queue."""
    with Queues(app) as queues:
        return queues.depth(queue)
