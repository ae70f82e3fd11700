"""Publishing to RabbitMQ with confirms once a batch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from celery import Celery

from swh_sched_runner.broker.amqp import connection as amqp_connection
from swh_sched_runner.broker.amqp.connection import AmqpLink
from swh_sched_runner.broker.amqp.inventory import counts_deliveries, ready_ids
from swh_sched_runner.broker.celery.messages import REFUSALS, AmqpTemplate, Message, SizeLimit, Templates, refused
from swh_sched_runner.broker.interface import Publisher, PublishResult
from swh_sched_runner.exc import BrokerUnavailable

LOCK_QUEUE = "swh-sched-runner.lease."
SESSION_QUEUE = "swh-sched-runner.session."
# So many messages, or bytes, between two looks at the lock session and at what the broker has confirmed meanwhile.
CHUNK_MESSAGES = 200
CHUNK_BYTES = 262_144
# A writer that never reads ends up with a broker that can't write its confirms, and so doesn't read either.
MOST_UNCONFIRMED = 5_000

log = structlog.get_logger(__name__)


class AmqpPublisher(Publisher):
    """Locks are exclusive queues on the connection that publishes: both end together."""

    locks_last = True

    def __init__(self, app: Celery, confirm_timeout_seconds: float, session_id: int, limit: SizeLimit) -> None:
        self.link = AmqpLink(app)
        self._app = app
        self._limit = limit
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self._session_id = session_id
        self._templates = Templates(app, limit)
        self._frames: dict[tuple[str, str], AmqpTemplate] = {}
        self._locked: set[str] = set()
        self._counting: set[str] = set()  # queues that were found to count deliveries
        self._results: dict[str, list[PublishResult]] = {}
        try:
            if not self.link.hold(f"{SESSION_QUEUE}{session_id}"):
                # Our own former connection that the broker hasn't given up yet, or a successor's proof that we are
                # gone. The dispatcher session tells which; in both cases nothing may be sent now.
                raise BrokerUnavailable(reason=f"another connection uses the name of session {session_id}")
            with self.link.guard():
                channel = self.link.channel()
                channel.confirm_select()
                # Kept: py-amqp forgets them when the connection is cut, and what can't be packed then looks like a
                # message that can't be sent.
                self._channel_id = int(channel.channel_id)
                self._frame_max = int(self.link.connection.frame_max)
        except BaseException:
            self.link.close()
            raise
        self._confirms = Confirms(channel)

    def lock(self, queue: str) -> bool:
        self.check()
        if self.link.blocked is not None:
            raise BrokerUnavailable(reason=f"the broker currently accepts no messages: {self.link.blocked}")
        if queue not in self._locked and self.link.hold(f"{LOCK_QUEUE}{queue}"):
            self._locked.add(queue)
        return queue in self._locked

    def unlock(self, queue: str) -> None:
        self._locked.discard(queue)
        # A connection that breaks drops the lock as well; the next use says so.
        with contextlib.suppress(BrokerUnavailable):
            if any(not result.done for result in self._results.pop(queue, ())):
                self.link.abort("messages were left unconfirmed")
            elif self.link.blocked is not None:
                self.link.abort(f"the broker currently accepts no messages: {self.link.blocked}")
            if self.link.broken is None:
                self.link.drop(f"{LOCK_QUEUE}{queue}")
            else:  # maybe for a message that is larger than the broker takes
                self._limit.learn(self.link.broken)

    def depth(self, queue: str) -> int:
        ready = amqp_connection.depth(self.link, queue)
        if ready is None:
            amqp_connection.declare(self.link, self._app, queue)
            return 0
        return ready

    def publish(
        self,
        queue: str,
        messages: Sequence[Message],
        max_queue_length: int | None,
        check_session: Callable[[], None],
    ) -> PublishResult:
        result = PublishResult(len(messages))
        unanswered = (earlier for earlier in self._results.get(queue, ()) if not earlier.done)
        self._results[queue] = [*unanswered, result]
        try:
            self._publish(queue, messages, result, check_session)
        except BrokerUnavailable as error:
            log.warning("publishing interrupted", queue=queue, reason=str(error))
        return result

    def wait_for_confirms(self, result: PublishResult) -> None:
        with contextlib.suppress(BrokerUnavailable):
            self._take_confirms(lambda: result.done)
        if not result.done:
            result.give_up()

    def ready_ids(self, queue: str, most: int) -> frozenset[str] | None:
        assert queue in self._locked, "without the lock, a look of another session makes the queue seem empty"
        if queue in self._counting or counts_deliveries(self._app, queue):
            return None
        found, counts = ready_ids(self.link, queue, most)
        if counts:
            self._counting.add(queue)
        return found

    def session_is_gone(self, session_id: int) -> bool:
        return session_id != self._session_id and self.link.hold(f"{SESSION_QUEUE}{session_id}")

    def connection_is_gone(self, session_id: int) -> bool:
        return self.session_is_gone(session_id)

    def release(self, session_id: int) -> None:
        if session_id != self._session_id:
            self.link.drop(f"{SESSION_QUEUE}{session_id}")

    def check(self) -> None:
        self.link.check()

    def close(self) -> None:
        self.link.close()

    def _publish(
        self, queue: str, messages: Sequence[Message], result: PublishResult, check_session: Callable[[], None]
    ) -> None:
        at = 0
        while at < len(messages) and self.link.blocked is None:
            check_session()
            self.link.require()
            parts: list[bytes] = []
            size = 0
            while at < len(messages) and len(parts) < CHUNK_MESSAGES and size < CHUNK_BYTES:
                message = messages[at]
                at += 1
                try:
                    parts.append(self._template(queue, message.name).frames(message))
                except REFUSALS as error:
                    result.unsendable[message.id] = refused(error)
                    continue
                size += len(parts[-1])
                self._confirms.expect(message.id, result)
            with self.link.guard():
                self.link.connection.transport.write(b"".join(parts))
                self.link.connection.bytes_sent += len(parts)  # what the heartbeat goes by
            self.link.check()
            self._take_confirms(lambda: len(self._confirms.pending) <= MOST_UNCONFIRMED)

    def _take_confirms(self, enough: Callable[[], bool]) -> None:
        """Wait until ``enough``; a broker that stays silent too long is given up. Raises ``BrokerUnavailable``."""
        deadline = time.monotonic() + self._confirm_timeout_seconds
        while not enough():
            if time.monotonic() > deadline:
                seconds = self._confirm_timeout_seconds
                self.link.abort(f"no confirm for {len(self._confirms.pending)} messages within {seconds:g} s")
            self.link.beat()
            self.link.drain(min(1.0, max(0.0, deadline - time.monotonic())))

    def _template(self, queue: str, name: str) -> AmqpTemplate:
        found = self._frames.get((queue, name))
        if found is None:
            found = AmqpTemplate(self._templates.of(name), self._channel_id, queue, self._frame_max)
            self._frames[queue, name] = found
        return found


class Confirms:
    """What the broker says of the messages on one channel, by their number on it."""

    def __init__(self, channel: Any) -> None:
        self._number = 0
        self.pending: dict[int, tuple[str, PublishResult]] = {}
        channel.events["basic_ack"].add(self._acknowledge)
        channel.events["basic_nack"].add(self._refuse)
        channel.events["basic_return"].add(self._return)

    def expect(self, identifier: str, result: PublishResult) -> None:
        """The message that is written next."""
        self._number += 1
        self.pending[self._number] = identifier, result
        result.unanswered += 1

    def _take(self, number: int, multiple: bool) -> list[tuple[str, PublishResult]]:
        if not multiple:
            return [self.pending.pop(number)] if number in self.pending else []
        taken = []
        for each in self.pending:  # in the order of their numbers
            if each > number:
                break
            taken.append(each)
        return [self.pending.pop(each) for each in taken]

    def _acknowledge(self, number: int, multiple: bool) -> None:
        for identifier, result in self._take(number, multiple):
            result.unanswered -= 1
            # One that had no queue is returned first, then acknowledged all the same.
            if identifier not in result.returned:
                result.confirmed.add(identifier)

    def _refuse(self, number: int, multiple: bool) -> None:
        for _, result in self._take(number, multiple):
            result.unanswered -= 1
            result.refused += 1

    def _return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        identifier = message.properties["correlation_id"]
        for pending, result in self.pending.values():
            if pending == identifier:
                result.returned.add(identifier)
                break
