"""Marks for the event queue on RabbitMQ, each confirmed."""

from __future__ import annotations

import time

import amqp
from celery import Celery

from swh_sched_runner.broker.amqp.connection import AmqpLink
from swh_sched_runner.broker.amqp.event_queue import dead_queue_name, declare_events, queue_name
from swh_sched_runner.broker.amqp.publisher import Confirms
from swh_sched_runner.broker.celery.events import mark_body
from swh_sched_runner.broker.celery.messages import PERSISTENT
from swh_sched_runner.broker.interface import EventMarker, PublishResult
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable, QueueRefused


class AmqpMarker(EventMarker):
    """Publishes through the default exchange: a mark is in no other queue than its own."""

    has_dead_letters = True

    def __init__(self, app: Celery, settings: BrokerSettings) -> None:
        self._link = AmqpLink(app)
        self._queue, self._dead_queue = queue_name(settings), dead_queue_name(settings)
        self._confirm_timeout_seconds = settings.confirm_timeout_seconds
        try:
            declare_events(self._link, settings)
            with self._link.guard():
                self._channel = self._link.channel()
                self._channel.confirm_select()
        except BaseException:
            self._link.close()
            raise
        self._confirms = Confirms(self._channel)

    def place(self, mark: str, *, dead_letters: bool) -> None:
        self._link.check()
        if self._link.blocked is not None:
            raise BrokerUnavailable(reason=f"the broker currently accepts no messages: {self._link.blocked}")
        queue, result = self._dead_queue if dead_letters else self._queue, PublishResult(1)
        message = amqp.Message(
            mark_body(mark, dead_letters=dead_letters),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=PERSISTENT,
            correlation_id=mark,
        )
        self._confirms.expect(mark, result)
        with self._link.guard():
            # Not basic_publish: with the transport option confirm_publish that one waits itself.
            self._channel._basic_publish(message, exchange="", routing_key=queue, mandatory=True)
        self._wait(result)
        if result.returned:
            raise QueueRefused(queue=queue, reason="it does not exist")
        if not result.confirmed:
            raise BrokerUnavailable(reason=f"it refused a message for the queue {queue}")

    def _wait(self, result: PublishResult) -> None:
        deadline = time.monotonic() + self._confirm_timeout_seconds
        while not result.done:
            if (left := deadline - time.monotonic()) <= 0:
                self._link.abort(f"no confirm for a mark within {self._confirm_timeout_seconds:g} s")
            self._link.beat()
            self._link.drain(min(1.0, max(0.0, left)))

    def close(self) -> None:
        self._link.close()
