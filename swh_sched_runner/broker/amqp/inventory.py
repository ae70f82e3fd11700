"""Which messages are ready in a queue of RabbitMQ: all are taken, looked at, and given back."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from typing import Any

import amqp
import amqp.exceptions
from celery import Celery

from swh_sched_runner.broker.amqp.connection import LONGEST_NAME, AmqpLink
from swh_sched_runner.broker.celery.app import reason_of
from swh_sched_runner.exc import BrokerUnavailable

QUEUE_TYPE = "x-queue-type"
DELIVERY_LIMIT = "x-delivery-limit"
# Queues that count deliveries put it on each message.
DELIVERY_COUNT = "x-delivery-count"
# What py-amqp raises for headers that can't be read. Workers, which read with it too, end at such a message.
_MALFORMED = (ValueError, TypeError, IndexError, RecursionError, struct.error)


def counts_deliveries(app: Celery, queue: str) -> bool:
    """Whether the configuration says so: a queue that drops or moves what is delivered too often."""
    configured = app.amqp.queues.get(queue)
    arguments = (configured.queue_arguments if configured is not None else None) or {}
    return arguments.get(QUEUE_TYPE) == "quorum" or DELIVERY_LIMIT in arguments


def ready_ids(link: AmqpLink, queue: str, most: int) -> tuple[frozenset[str] | None, bool]:
    """See ``Publisher.ready_ids``; and whether a message told that its deliveries are counted.

    Whatever breaks, the messages go back: with the channel, or with the connection.
    """
    if len(queue.encode()) > LONGEST_NAME:
        return None, False
    with link.guard():
        channel = link.connection.channel()
        try:
            return _read(link, channel, queue, most)
        except amqp.exceptions.NotFound:
            return frozenset(), False
        except amqp.exceptions.ChannelError:
            return None, False
        except _MALFORMED as error:
            link.abort(f"a message in {queue} can't be read: {reason_of(error)}")
            raise BrokerUnavailable(reason=link.broken) from error
        finally:
            if link.broken is None:
                # When the broker answers to that, the queue has taken them back, all at once. After basic.nack it may
                # take them back one by one, and says of its length what it is meanwhile.
                with contextlib.suppress(amqp.exceptions.ChannelError):
                    channel.close()


def _read(link: AmqpLink, channel: amqp.Channel, queue: str, most: int) -> tuple[frozenset[str] | None, bool]:
    """Up to the answer that the queue is empty: what it says of its length before proves nothing."""
    found: set[str] = set()
    for _ in range(most + 1):
        link.beat()
        message = channel.basic_get(queue)
        if message is None:
            return frozenset(found), False
        headers = message.properties.get("application_headers") or {}
        if DELIVERY_COUNT in headers:
            return None, True
        if (identifier := _id_of(headers, message.properties)) is not None:
            found.add(identifier)
    return None, False


def _id_of(headers: Mapping[str, Any], properties: Mapping[str, Any]) -> str | None:
    """Of the task that a message is for; other programs' messages may have none."""
    for said in (headers.get("id"), properties.get("correlation_id")):
        if isinstance(said, str) and said:
            return said
    return None
