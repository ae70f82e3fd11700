"""Events from RabbitMQ: py-amqp opens the connection and asks, deliveries are read past it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import structlog
from celery import Celery

from swh_sched_runner.broker.amqp.connection import AmqpLink, counts
from swh_sched_runner.broker.amqp.event_queue import OldQueue, declare_events, queue_name
from swh_sched_runner.broker.interface import BATCH_BYTES, Delivery, EventConsumer, bytes_of
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable

BEAT_SECONDS = 1.0

log = structlog.get_logger(__name__)


class AmqpConsumer(EventConsumer):
    """What it doesn't read yet waits in the socket, and then in the broker.

    While there is an old event queue that nobody drains, it takes what that one holds, and then the new one's.
    """

    alone = True

    def __init__(self, app: Celery, settings: BrokerSettings, prefetch: int, max_bytes: int) -> None:
        self._link = AmqpLink(app)
        self.queue = queue_name(settings)
        self._received: list[Delivery] = []
        self._received_bytes = 0
        self._next_beat = 0.0
        self._in_hand: dict[int, None] = {}  # tags in the order of delivery
        self._drains = False  # whether it takes from the old queue
        self._was_taken = False  # whether another consumer had the queue when this one came
        self._delivered = False
        try:
            declare_events(self._link, settings)
            self._old = OldQueue(self._link, settings)
            with self._link.guard():
                self._channel = self._link.channel()
                frames = self._link.read_frames()
                frames.splitter.take_deliveries(int(self._channel.channel_id), max_bytes, self._take)
                self._channel.basic_qos(0, prefetch, False)
                self._begin()
        except BaseException:
            self._link.close()
            raise

    def _begin(self) -> None:
        if self._old.exists and not self._old.is_taken():
            # Refused, and with that the connection, if somebody was quicker: next time that one is seen. The end of the
            # queue is expected: without ``on_cancel`` py-amqp would take it for the end of the connection.
            self._channel.basic_consume(self._old.name, exclusive=True, on_cancel=lambda _: None)
            self._drains = True
            log.info("the event queue has a new name, the old one is drained first", queue=self._old.name)
        else:
            self._consume()

    def _consume(self) -> None:
        counted = counts(self._link, self.queue)
        self._was_taken = counted is not None and counted[1] > 0
        self._delivered = False
        with self._link.guard():
            self._channel.basic_consume(self.queue)

    @property
    def in_order(self) -> bool:
        # Another listener may drain the old queue while this one takes from the new.
        return not self._old.exists

    @property
    def standing_by(self) -> bool:
        return not self._drains and self._was_taken and not self._delivered

    def recover(self) -> None:
        """The broker does it."""

    def _take(self, delivery: Delivery) -> None:
        self._received.append(delivery)
        self._received_bytes += len(delivery.body)
        self._in_hand[delivery.tag] = None
        self._delivered = True

    def wait(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        self._link.require()
        self.keep_alive()
        while not self._received and (left := deadline - time.monotonic()) > 0:
            self._read(left)
        return bool(self._received)

    def receive(self, limit: int, timeout_seconds: float, limit_bytes: int = BATCH_BYTES) -> list[Delivery]:
        deadline = time.monotonic() + timeout_seconds
        self._link.require()
        self.keep_alive()
        while (
            len(self._received) < limit
            and self._received_bytes < limit_bytes
            and (left := deadline - time.monotonic()) > 0
        ):
            self._read(left)
        taken, self._received = self._received[:limit], self._received[limit:]
        self._received_bytes = bytes_of(self._received)
        return taken

    def _read(self, left: float) -> None:
        self._link.beat()
        self._link.next_method(min(left, BEAT_SECONDS))
        self._look_after_the_old_queue()

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        done = {delivery.tag for delivery in deliveries}
        before_the_first_kept = list(itertools.takewhile(done.__contains__, self._in_hand))
        behind = sorted(done.difference(before_the_first_kept))
        with self._link.guard():
            if before_the_first_kept:
                self._channel.basic_ack(before_the_first_kept[-1], multiple=True)
            for tag in behind:
                self._channel.basic_ack(tag)
        for tag in done:
            self._in_hand.pop(tag, None)

    def keep_alive(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + BEAT_SECONDS
            self._link.beat()
            self._link.next_method(0)  # the broker's own heartbeats count as soon as they are read

    def _look_after_the_old_queue(self) -> None:
        if self._drains:
            if self._old.is_empty(lambda: bool(self._in_hand)):
                self._old.delete()
                self._drains = False
                self._consume()
        elif self._old.is_abandoned():
            raise BrokerUnavailable(reason=f"nobody drains the queue {self._old.name}, which has to be emptied first")

    def close(self) -> None:
        """Close the channel with the connection: a cancel would leave what is in hand to come after later messages."""
        self._link.close()
