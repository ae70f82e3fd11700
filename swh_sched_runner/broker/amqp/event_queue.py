"""The event queue on RabbitMQ, and the move from the one that was declared otherwise before.

One listener works and the others stand by, so that events are recorded in the order of delivery: the queue is declared
with ``x-single-active-consumer``. The arguments of a queue can't change, so it has a name of its own. The move can be
broken off anywhere, and whoever opens a consumer next goes on with it:

1. The new queue is declared and bound. From here on each event is in the new queue.
2. The old one is unbound. What came in between is in both; an event that is told twice counts once.
3. One consumer, which declares itself the only one, takes what the old queue holds. It is recorded and acknowledged
   like everything else; meanwhile new events wait, or another listener takes them.
4. When it is empty, it is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import amqp.exceptions
import structlog

from swh_sched_runner import worker
from swh_sched_runner.broker.amqp.connection import AmqpLink, counts
from swh_sched_runner.broker.celery.app import reason_of
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import QueueRefused

log = structlog.get_logger(__name__)

SINGLE_SUFFIX = ".single"
DEAD_SUFFIX = ".dead"
SINGLE_ACTIVE_CONSUMER = "x-single-active-consumer"
# Two million events, and below what the smallest sensible disk alarm leaves; then the oldest go.
MAX_BYTES = 1_073_741_824
MAX_DEAD_BYTES = 67_108_864
# Large: what can't be read is rejected by the listener. Not -1, with which RabbitMQ 3.10 drops everything when a
# consumer dies.
DELIVERY_LIMIT = 1_000_000
# What falls out of the event queue is read by one consumer, too: what comes out of it is all that went in before.
DEAD_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-overflow": "drop-head",
    "x-max-length-bytes": MAX_DEAD_BYTES,
    "x-delivery-limit": DELIVERY_LIMIT,
    SINGLE_ACTIVE_CONSUMER: True,
}
# A queue counts a message that is on its way to us as gone: between two looks at it whatever was on its way arrives.
LOOK_SECONDS = 1.0
# How often a listener that is at work looks whether somebody drains the old queue.
REMIND_SECONDS = 5.0


def queue_name(settings: BrokerSettings) -> str:
    """What the event queue is called on RabbitMQ; the name that is configured was that of the old one."""
    return settings.event_queue + SINGLE_SUFFIX


def dead_queue_name(settings: BrokerSettings) -> str:
    """Where messages go that fall out of the event queue."""
    return queue_name(settings) + DEAD_SUFFIX


def old_dead_queue_name(settings: BrokerSettings) -> str:
    """Where messages went that fell out of the old event queue."""
    return settings.event_queue + DEAD_SUFFIX


def event_queue_arguments(settings: BrokerSettings) -> dict[str, Any]:
    """How the event queue is declared: as the configuration (``broker.queues``) says, and for one consumer."""
    return _arguments(settings, dead_queue_name(settings)) | {SINGLE_ACTIVE_CONSUMER: True}


def old_queue_arguments(settings: BrokerSettings) -> dict[str, Any]:
    """How the old event queue was declared."""
    return _arguments(settings, old_dead_queue_name(settings))


def _arguments(settings: BrokerSettings, dead_queue: str) -> dict[str, Any]:
    configured = settings.queues.get(settings.event_queue)
    if configured is not None:
        return dict(configured.arguments)
    return {
        # Celery's events are not persistent: over a broker's restart only a quorum queue keeps them.
        "x-queue-type": "quorum",
        "x-overflow": "drop-head",
        "x-max-length-bytes": MAX_BYTES,
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_queue,
    }


def declare_events(link: AmqpLink, settings: BrokerSettings) -> None:
    """Make the event queue; from now on it keeps events, whether somebody listens or not. Raises ``QueueRefused``."""
    queue = queue_name(settings)
    with link.guard():
        try:
            link.control.queue_declare(
                dead_queue_name(settings), durable=True, auto_delete=False, arguments=DEAD_ARGUMENTS
            )
            link.control.queue_declare(
                queue, durable=True, auto_delete=False, arguments=event_queue_arguments(settings)
            )
            link.control.exchange_declare(settings.event_exchange, "topic", durable=True, auto_delete=False)
            for key in worker.EVENT_KEYS:
                link.control.queue_bind(queue, settings.event_exchange, key)
        except amqp.exceptions.ChannelError as error:
            raise QueueRefused(queue=queue, reason=reason_of(error)) from error


class OldQueue:
    """The event queue as it was declared before, while it exists. ``declare_events`` comes first."""

    def __init__(self, link: AmqpLink, settings: BrokerSettings) -> None:
        """Looks whether there is one, and keeps new events from it. Raises ``QueueRefused`` where it isn't ours."""
        self._link = link
        self._settings = settings
        self.name = settings.event_queue
        self.exists = counts(link, self.name) is not None
        self._looked_empty = False
        self._next_look = 0.0
        if self.exists:
            self._unbind()

    def _unbind(self) -> None:
        with self._link.guard():
            try:
                # Only a queue that is declared as ours was may be emptied and deleted.
                arguments = old_queue_arguments(self._settings)
                self._link.control.queue_declare(self.name, durable=True, auto_delete=False, arguments=arguments)
                for key in worker.EVENT_KEYS:
                    self._link.control.queue_unbind(self.name, self._settings.event_exchange, key)
            except amqp.exceptions.ChannelError as error:
                raise QueueRefused(queue=self.name, reason=reason_of(error)) from error

    def is_taken(self) -> bool:
        """Whether another consumer drains it now, or it is gone."""
        counted = counts(self._link, self.name)
        self.exists = counted is not None
        return counted is None or counted[1] > 0

    def is_abandoned(self) -> bool:
        """Whether nobody drains it any more; looks now and then, as long as it exists."""
        if not self.exists or time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + REMIND_SECONDS
        return not self.is_taken()

    def is_empty(self, in_hand: Callable[[], bool]) -> bool:
        """Whether there is nothing left in it; ``in_hand``: whether something of it came and is unacknowledged."""
        now = time.monotonic()
        if in_hand():
            self._looked_empty, self._next_look = False, now
        elif now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            counted = counts(self._link, self.name)
            empty = (counted is None or not counted[0]) and not in_hand()  # the answer came after what was on its way
            before, self._looked_empty = self._looked_empty, empty
            return empty and before
        return False

    def delete(self) -> None:
        """It is empty, and all that it held is recorded."""
        with self._link.guard():
            self._link.control.queue_delete(self.name)
        self.exists = False
        log.info("the old event queue is empty and was deleted", queue=self.name)
