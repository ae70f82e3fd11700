"""Publishing to RabbitMQ with confirms once a batch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
from celery import Celery

from swh_sched_runner.broker.amqp import connection as amqp_connection
from swh_sched_runner.broker.amqp.connection import AmqpLink
from swh_sched_runner.broker.celery.messages import REFUSALS, AmqpTemplate, Message, SizeLimit, Template, refused
from swh_sched_runner.broker.sent import Sent
from swh_sched_runner.exc import BrokerUnavailable

FILL_QUEUE = "swh-sched-runner.fill."
SESSION_QUEUE = "swh-sched-runner.session."
# So many messages, or bytes, between two looks at the lock session and at what the broker has confirmed meanwhile.
CHUNK_MESSAGES = 200
CHUNK_BYTES = 262_144
# A writer that never reads ends up with a broker that can't write its confirms, and so doesn't read either.
MOST_UNCONFIRMED = 5_000

log = structlog.get_logger(__name__)


class AmqpPublisher:
    """See ``publish.Publisher``. Locks are exclusive queues on the connection that publishes: both end together."""

    def __init__(self, app: Celery, confirm_timeout_seconds: float, session_id: int, limit: SizeLimit) -> None:
        self.app = app
        self.limit = limit
        self.confirm_timeout_seconds = confirm_timeout_seconds
        self.session_id = session_id
        self.link = AmqpLink(app)
        self._templates: dict[str, Template] = {}
        try:
            if not self.link.hold(f"{SESSION_QUEUE}{session_id}"):
                # Our own former connection that the broker hasn't given up yet, or a successor's proof that we are
                # gone. The runner's lock session tells which; in both cases nothing may be sent now.
                raise BrokerUnavailable(reason=f"another connection holds the name of runner {session_id}")
            with self.link.guard():
                self.channel = self.link.channel()
                self.channel.confirm_select()
                # Kept: py-amqp forgets them when the connection is cut, and what can't be packed then looks like a
                # message that can't be sent.
                self.channel_id = int(self.channel.channel_id)
                self.frame_max = int(self.link.connection.frame_max)
        except BaseException:
            self.link.close()
            raise
        self.confirms = Confirms(self.channel)

    @contextlib.contextmanager
    def fill(self, queue: str, max_queue_length: int | None) -> Iterator[AmqpFiller | None]:
        """See ``publish.Publisher.fill``."""
        self.check()
        if self.link.blocked is not None:
            raise BrokerUnavailable(reason=f"the broker takes no messages now: {self.link.blocked}")
        lock = f"{FILL_QUEUE}{queue}"
        if not self.link.hold(lock):
            yield None
            return
        filler = AmqpFiller(self, queue, max_queue_length)
        try:
            yield filler
        finally:
            self._unlock(lock, filler)

    def _unlock(self, lock: str, filler: AmqpFiller) -> None:
        if filler.unanswered:
            # The lock may not go before what it covers: both end with the connection.
            self.link.abort("messages were left unconfirmed")
        elif self.link.blocked is not None:
            self.link.abort(f"the broker takes no messages now: {self.link.blocked}")
        if self.link.broken is None:
            # A connection that breaks here drops the lock as well; the next use says so.
            with contextlib.suppress(BrokerUnavailable):
                self.link.drop(lock)
        else:  # maybe for a message that is larger than the broker takes
            self.limit.learn(self.link.broken)

    def take_confirms(self, enough: Callable[[], bool]) -> None:
        """Wait until ``enough``; a broker that stays silent too long is given up. Raises ``BrokerUnavailable``."""
        deadline = time.monotonic() + self.confirm_timeout_seconds
        while not enough():
            if time.monotonic() > deadline:
                seconds = self.confirm_timeout_seconds
                self.link.abort(f"no confirm of {len(self.confirms.pending)} messages within {seconds:g} s")
            self.link.beat()
            self.link.drain(min(1.0, max(0.0, deadline - time.monotonic())))

    def session_is_gone(self, session_id: int) -> bool:
        """See ``publish.Publisher.session_is_gone``."""
        return session_id != self.session_id and self.link.hold(f"{SESSION_QUEUE}{session_id}")

    def connection_is_gone(self, session_id: int) -> bool:
        """See ``publish.Publisher.connection_is_gone``."""
        return self.session_is_gone(session_id)

    def release(self, session_id: int) -> None:
        """See ``publish.Publisher.release``."""
        if session_id != self.session_id:
            self.link.drop(f"{SESSION_QUEUE}{session_id}")

    def check(self) -> None:
        """See ``publish.Publisher.check``."""
        self.link.check()

    def close(self) -> None:
        """See ``publish.Publisher.close``."""
        self.link.close()

    def template(self, name: str) -> Template:
        """The template of a task name."""
        if name not in self._templates:
            self._templates[name] = Template(self.app, name, self.limit)
        return self._templates[name]


class AmqpFiller:
    """See ``publish.Filler``."""

    def __init__(self, publisher: AmqpPublisher, queue: str, max_queue_length: int | None) -> None:
        self._publisher = publisher
        self._link = publisher.link
        self._sent: list[Sent] = []
        self._queue = queue
        self._max_queue_length = max_queue_length
        self.depth: int | None = None
        self._templates: dict[str, AmqpTemplate] = {}

    def room(self) -> int | None:
        """See ``publish.Filler.room``."""
        ready = amqp_connection.depth(self._link, self._queue)
        if ready is None:
            amqp_connection.declare(self._link, self._publisher.app, self._queue)
            ready = 0
        self.depth = ready
        return None if self._max_queue_length is None else max(0, self._max_queue_length - ready)

    @property
    def unanswered(self) -> bool:
        """Whether the broker still owes a word on messages of this filler's."""
        return any(sent.unanswered for sent in self._sent)

    def write(self, messages: Sequence[Message], check_session: Callable[[], None]) -> Sent:
        """See ``publish.Filler.write``."""
        sent = Sent(len(messages))
        self._sent = [*(earlier for earlier in self._sent if earlier.unanswered), sent]
        try:
            self._write(messages, sent, check_session)
        except BrokerUnavailable as error:
            log.warning("sending broke off", queue=self._queue, reason=str(error))
        return sent

    def settle(self, sent: Sent) -> None:
        """See ``publish.Filler.settle``."""
        with contextlib.suppress(BrokerUnavailable):
            self._publisher.take_confirms(lambda: sent.done)
        if not sent.done:
            sent.give_up()

    def _write(self, messages: Sequence[Message], sent: Sent, check_session: Callable[[], None]) -> None:
        confirms, at = self._publisher.confirms, 0
        while at < len(messages) and self._link.blocked is None:
            check_session()
            self._link.require()
            parts: list[bytes] = []
            size = 0
            while at < len(messages) and len(parts) < CHUNK_MESSAGES and size < CHUNK_BYTES:
                message = messages[at]
                at += 1
                try:
                    parts.append(self._template(message.name).frames(message))
                except REFUSALS as error:
                    sent.unsendable[message.id] = refused(error)
                    continue
                size += len(parts[-1])
                confirms.expect(message.id, sent)
            with self._link.guard():
                self._link.connection.transport.write(b"".join(parts))
                self._link.connection.bytes_sent += len(parts)  # what the heartbeat goes by
            self._link.check()
            self._publisher.take_confirms(lambda: len(confirms.pending) <= MOST_UNCONFIRMED)

    def _template(self, name: str) -> AmqpTemplate:
        if name not in self._templates:
            publisher = self._publisher
            self._templates[name] = AmqpTemplate(
                publisher.template(name), publisher.channel_id, self._queue, publisher.frame_max
            )
        return self._templates[name]


class Confirms:
    """What the broker says of the messages on one channel, by their number on it."""

    def __init__(self, channel: Any) -> None:
        self._number = 0
        self.pending: dict[int, tuple[str, Sent]] = {}
        channel.events["basic_ack"].add(self._acknowledge)
        channel.events["basic_nack"].add(self._refuse)
        channel.events["basic_return"].add(self._return)

    def expect(self, identifier: str, sent: Sent) -> None:
        """The message that is written next."""
        self._number += 1
        self.pending[self._number] = identifier, sent
        sent.unanswered += 1

    def _take(self, number: int, multiple: bool) -> list[tuple[str, Sent]]:
        if not multiple:
            return [self.pending.pop(number)] if number in self.pending else []
        taken = []
        for each in self.pending:  # in the order of their numbers
            if each > number:
                break
            taken.append(each)
        return [self.pending.pop(each) for each in taken]

    def _acknowledge(self, number: int, multiple: bool) -> None:
        for identifier, sent in self._take(number, multiple):
            sent.unanswered -= 1
            # One that had no queue is returned first, then acknowledged all the same.
            if identifier not in sent.returned:
                sent.confirmed.add(identifier)

    def _refuse(self, number: int, multiple: bool) -> None:
        for _, sent in self._take(number, multiple):
            sent.unanswered -= 1
            sent.refused += 1

    def _return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        identifier = message.properties["correlation_id"]
        for pending, sent in self.pending.values():
            if pending == identifier:
                sent.returned.add(identifier)
                break
