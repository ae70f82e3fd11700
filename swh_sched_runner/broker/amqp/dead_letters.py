"""The dead-letter queue of the event queue, on a connection of its own."""

from __future__ import annotations

import time

import structlog
from celery import Celery

from swh_sched_runner.broker.amqp.connection import AmqpLink, counts
from swh_sched_runner.broker.amqp.event_queue import dead_queue_name, declare_events, old_dead_queue_name, queue_name
from swh_sched_runner.broker.interface import DeadLetters, Delivery
from swh_sched_runner.config.settings import BrokerSettings

# What a frame holds unless the broker is told otherwise: why a message died may stand behind anything.
HEADER_BYTES = 131_072

log = structlog.get_logger(__name__)


class AmqpDeadLetters(DeadLetters):
    """At most ``prefetch`` messages of a queue are in hand.

    What fell out of the event queue before it was renamed is in an old dead-letter queue. That one is read as
    well, and deleted once it is empty and nothing can come any more.
    """

    def __init__(self, app: Celery, settings: BrokerSettings, prefetch: int, max_bytes: int) -> None:
        self._link = AmqpLink(app)
        self._settings = settings
        self._received: list[Delivery] = []
        self._in_hand: set[int] = set()
        try:
            declare_events(self._link, settings)
            self._reads_old = counts(self._link, old_dead_queue_name(settings)) is not None
            with self._link.guard():
                self._channel = self._link.channel()
                frames = self._link.read_frames()
                frames.splitter.take_deliveries(
                    int(self._channel.channel_id), max_bytes, self._received.append, HEADER_BYTES
                )
                self._channel.basic_qos(0, prefetch, False)  # of each queue
                self._channel.basic_consume(dead_queue_name(settings))
                if self._reads_old:
                    # Whoever finds it empty first deletes it: its end is expected.
                    self._channel.basic_consume(old_dead_queue_name(settings), on_cancel=lambda _: None)
        except BaseException:
            self._link.close()
            raise

    @property
    def in_order(self) -> bool:
        return not self._reads_old

    def receive(self, timeout_seconds: float) -> list[Delivery]:
        deadline = time.monotonic() + timeout_seconds
        self._link.check()
        while not self._received and (left := deadline - time.monotonic()) > 0:
            self._link.beat()
            self._link.drain(min(left, 1.0))
        taken = self._received[:]
        self._received.clear()
        self._in_hand.update(delivery.tag for delivery in taken)
        return taken

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        with self._link.guard():
            for delivery in deliveries:
                self._channel.basic_ack(delivery.tag)
        self._in_hand.difference_update(delivery.tag for delivery in deliveries)

    def lengths(self) -> dict[str, int]:
        if self._reads_old:
            self._delete_old()
        names = (queue_name(self._settings), dead_queue_name(self._settings))
        found = {queue: counts(self._link, queue) for queue in names}
        return {queue: counted[0] for queue, counted in found.items() if counted is not None}

    def _delete_old(self) -> None:
        """Delete the old dead-letter queue when all that it held is recorded and nothing can come any more."""
        old = old_dead_queue_name(self._settings)
        if counts(self._link, self._settings.event_queue) is not None:
            return
        counted = counts(self._link, old)
        if counted is None:
            self._reads_old = False
        elif counted == (0, 1) and not self._in_hand and not self._received:  # nobody else has any of it in hand
            with self._link.guard():
                self._link.control.queue_delete(old)
            self._reads_old = False
            log.info("the old dead-letter queue is empty and was deleted", queue=old)

    def close(self) -> None:
        self._link.close()
