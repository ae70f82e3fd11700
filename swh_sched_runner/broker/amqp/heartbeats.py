"""The queue of heartbeats on RabbitMQ: what nobody takes in time is gone."""

from __future__ import annotations

import time

import amqp.exceptions
from celery import Celery

from swh_sched_runner.broker.amqp.connection import AmqpLink
from swh_sched_runner.broker.celery.app import reason_of
from swh_sched_runner.broker.interface import (
    HEARTBEAT_BYTES,
    HEARTBEAT_KEY,
    HEARTBEAT_SUFFIX,
    MOST_HEARTBEATS,
    Delivery,
    HeartbeatConsumer,
)
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import QueueRefused

# A heartbeat that waited for longer says nothing of now.
TTL_MILLISECONDS = 10_000


class AmqpHeartbeats(HeartbeatConsumer):
    """Several consumers share the heartbeats. Deliveries are read past py-amqp, which odd ones would end."""

    def __init__(self, app: Celery, settings: BrokerSettings) -> None:
        self._link = AmqpLink(app)
        self._bodies: list[bytes] = []
        queue = settings.event_queue + HEARTBEAT_SUFFIX
        try:
            with self._link.guard():
                channel = self._link.channel()
                self._declare(queue, settings.event_exchange)
                frames = self._link.read_frames()
                frames.splitter.take_deliveries(int(channel.channel_id), HEARTBEAT_BYTES, self._take)
                channel.basic_consume(queue, no_ack=True)
        except BaseException:
            self._link.close()
            raise

    def _declare(self, queue: str, exchange: str) -> None:
        try:
            arguments = {"x-message-ttl": TTL_MILLISECONDS}
            self._link.control.queue_declare(queue, durable=False, auto_delete=True, arguments=arguments)
            self._link.control.exchange_declare(exchange, "topic", durable=True, auto_delete=False)
            self._link.control.queue_bind(queue, exchange, HEARTBEAT_KEY)
        except amqp.exceptions.ChannelError as error:
            raise QueueRefused(queue=queue, reason=reason_of(error)) from error

    def _take(self, delivery: Delivery) -> None:
        if delivery.size <= HEARTBEAT_BYTES:
            self._bodies.append(delivery.body)

    def receive(self, timeout_seconds: float) -> list[bytes]:
        deadline = time.monotonic() + timeout_seconds
        self._link.require()
        while len(self._bodies) < MOST_HEARTBEATS and (left := deadline - time.monotonic()) > 0:
            self._link.beat()
            self._link.next_method(min(left, 1.0))
        taken, self._bodies = self._bodies, []
        return taken

    def close(self) -> None:
        self._link.close()
