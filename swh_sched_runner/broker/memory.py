"""Kombu's memory transport, for tests and trials in one process; nothing here outlives it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from celery import Celery
from kombu.entity import Exchange, Queue

from swh_sched_runner import worker
from swh_sched_runner.broker.celery.app import connect
from swh_sched_runner.broker.celery.messages import REFUSALS, Message, SizeLimit, Template, refused
from swh_sched_runner.broker.delivery import Delivery
from swh_sched_runner.broker.sent import Sent
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable, OwnershipLost

POLL_SECONDS = 0.005
CHUNK_MESSAGES = 200


class _Process:
    """Who holds what among the publishers of this process."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.owners: set[int] = set()
        self.gone: dict[int, int] = {}
        self.fillers: set[str] = set()


_process = _Process()


class MemoryPublisher:
    """See ``publish.Publisher``."""

    def __init__(self, app: Celery, owner: int, limit: SizeLimit) -> None:
        self.app = app
        self.limit = limit
        self.owner = owner
        self.open = True
        with _process.mutex:
            if owner in _process.gone:
                raise OwnershipLost(owner=owner)
            if owner in _process.owners:
                raise BrokerUnavailable(reason=f"another connection holds the name of runner {owner}")
            _process.owners.add(owner)
        self.connection = connect(app)
        self.producer = app.amqp.Producer(self.connection.default_channel, auto_declare=False)

    @contextlib.contextmanager
    def fill(self, queue: str, bound: int | None) -> Iterator[MemoryFiller | None]:
        """See ``publish.Publisher.fill``."""
        self.check()
        with _process.mutex:
            mine = queue not in _process.fillers
            _process.fillers.add(queue)
        if not mine:
            yield None
            return
        try:
            yield MemoryFiller(self, queue, bound)
        finally:
            with _process.mutex:
                _process.fillers.discard(queue)

    def owner_is_gone(self, owner: int) -> bool:
        """See ``publish.Publisher.owner_is_gone``."""
        with _process.mutex:
            if owner in _process.owners:
                return False
            return _process.gone.setdefault(owner, self.owner) == self.owner

    def connection_is_gone(self, owner: int) -> bool:
        """See ``publish.Publisher.connection_is_gone``."""
        return self.owner_is_gone(owner)

    def release(self, owner: int) -> None:
        """See ``publish.Publisher.release``."""
        with _process.mutex:
            _process.gone.pop(owner, None)

    def check(self) -> None:
        """See ``publish.Publisher.check``."""
        if not self.open:
            raise BrokerUnavailable(reason="it was closed")

    def close(self) -> None:
        """See ``publish.Publisher.close``."""
        self.open = False
        with _process.mutex:
            _process.owners.discard(self.owner)
            _process.gone = {owner: by for owner, by in _process.gone.items() if by != self.owner}
        self.connection.release()


class MemoryFiller:
    """See ``publish.Filler``."""

    def __init__(self, publisher: MemoryPublisher, queue: str, bound: int | None) -> None:
        self._publisher = publisher
        self._queue = queue
        self._bound = bound
        self.depth: int | None = None

    def room(self) -> int | None:
        """See ``publish.Filler.room``."""
        channel = self._publisher.connection.default_channel
        self._publisher.app.amqp.queues[self._queue](channel).declare()
        self.depth = ready = int(channel._size(self._queue))
        return None if self._bound is None else max(0, self._bound - ready)

    def write(self, messages: Sequence[Message], still_owner: Callable[[], None]) -> Sent:
        """See ``publish.Filler.write``: nothing has to be confirmed."""
        sent = Sent(len(messages))
        for at, message in enumerate(messages):
            if at % CHUNK_MESSAGES == 0:
                still_owner()
            template = Template(self._publisher.app, message.name, self._publisher.limit)
            try:
                body, headers = template.body_of(message), template.headers_of(message)
            except REFUSALS as error:
                sent.unsendable[message.id] = refused(error)
                continue
            sent.confirmed.add(message.id)
            self._publisher.producer.publish(
                body,
                exchange=Exchange(""),
                routing_key=self._queue,
                headers=headers,
                content_type="application/json",
                content_encoding="utf-8",
                correlation_id=message.id,
                reply_to="",
            )
        return sent

    def settle(self, sent: Sent) -> None:
        """See ``publish.Filler.settle``: all was said when it was written."""


class MemoryConsumer:
    """See ``consumer.EventConsumer``. What is not acknowledged is lost with the process."""

    def __init__(self, app: Celery, settings: BrokerSettings, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._connection = connect(app)
        self._channel = self._connection.channel()
        exchange = Exchange(settings.event_exchange, type="topic")
        self._queue = settings.event_queue
        for key in worker.EVENT_KEYS:
            Queue(self._queue, exchange, routing_key=key)(self._channel).declare()

    def receive(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """See ``consumer.EventConsumer.receive``."""
        deadline = time.monotonic() + timeout_seconds
        taken: list[Delivery] = []
        while len(taken) < limit:
            message = self._channel.basic_get(self._queue)
            if message is not None:
                taken.append(Delivery.of(_as_bytes(message.body), message.delivery_tag, self._max_bytes))
            elif (left := deadline - time.monotonic()) > 0:
                time.sleep(min(left, POLL_SECONDS))
            else:
                break
        return taken

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See ``consumer.EventConsumer.acknowledge``."""
        for delivery in deliveries:
            self._channel.basic_ack(delivery.tag)

    def keep_alive(self) -> None:
        """See ``consumer.EventConsumer.keep_alive``: nothing can break."""

    def close(self) -> None:
        """See ``consumer.EventConsumer.close``."""
        self._connection.release()


def _as_bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body
