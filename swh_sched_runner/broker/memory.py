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
from swh_sched_runner.exc import BrokerUnavailable, SessionLost

POLL_SECONDS = 0.005
CHUNK_MESSAGES = 200


class _Process:
    """Who holds what among the publishers of this process."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.session_ids: set[int] = set()
        self.gone: dict[int, int] = {}
        self.fillers: set[str] = set()


_process = _Process()


class MemoryPublisher:
    """See ``publish.Publisher``."""

    def __init__(self, app: Celery, session_id: int, limit: SizeLimit) -> None:
        self.app = app
        self.limit = limit
        self.session_id = session_id
        self.open = True
        with _process.mutex:
            if session_id in _process.gone:
                raise SessionLost(session_id=session_id)
            if session_id in _process.session_ids:
                raise BrokerUnavailable(reason=f"another connection holds the name of runner {session_id}")
            _process.session_ids.add(session_id)
        self.connection = connect(app)
        self.producer = app.amqp.Producer(self.connection.default_channel, auto_declare=False)

    @contextlib.contextmanager
    def fill(self, queue: str, max_queue_length: int | None) -> Iterator[MemoryFiller | None]:
        """See ``publish.Publisher.fill``."""
        self.check()
        with _process.mutex:
            mine = queue not in _process.fillers
            _process.fillers.add(queue)
        if not mine:
            yield None
            return
        try:
            yield MemoryFiller(self, queue, max_queue_length)
        finally:
            with _process.mutex:
                _process.fillers.discard(queue)

    def session_is_gone(self, session_id: int) -> bool:
        """See ``publish.Publisher.session_is_gone``."""
        with _process.mutex:
            if session_id in _process.session_ids:
                return False
            return _process.gone.setdefault(session_id, self.session_id) == self.session_id

    def connection_is_gone(self, session_id: int) -> bool:
        """See ``publish.Publisher.connection_is_gone``."""
        return self.session_is_gone(session_id)

    def release(self, session_id: int) -> None:
        """See ``publish.Publisher.release``."""
        with _process.mutex:
            _process.gone.pop(session_id, None)

    def check(self) -> None:
        """See ``publish.Publisher.check``."""
        if not self.open:
            raise BrokerUnavailable(reason="it was closed")

    def close(self) -> None:
        """See ``publish.Publisher.close``."""
        self.open = False
        with _process.mutex:
            _process.session_ids.discard(self.session_id)
            _process.gone = {session_id: by for session_id, by in _process.gone.items() if by != self.session_id}
        self.connection.release()


class MemoryFiller:
    """See ``publish.Filler``."""

    def __init__(self, publisher: MemoryPublisher, queue: str, max_queue_length: int | None) -> None:
        self._publisher = publisher
        self._queue = queue
        self._max_queue_length = max_queue_length
        self.depth: int | None = None

    def room(self) -> int | None:
        """See ``publish.Filler.room``."""
        channel = self._publisher.connection.default_channel
        self._publisher.app.amqp.queues[self._queue](channel).declare()
        self.depth = ready = int(channel._size(self._queue))
        return None if self._max_queue_length is None else max(0, self._max_queue_length - ready)

    def write(self, messages: Sequence[Message], check_session: Callable[[], None]) -> Sent:
        """See ``publish.Filler.write``: nothing has to be confirmed."""
        sent = Sent(len(messages))
        for at, message in enumerate(messages):
            if at % CHUNK_MESSAGES == 0:
                check_session()
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
