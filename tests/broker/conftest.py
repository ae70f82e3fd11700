"""The interface of a broker, against every broker."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from celery import Celery

from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.celery.messages import Message
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.interface import Publisher, PublishResult
from swh_sched_runner.config.settings import BrokerSettings
from tests.conftest import skip_or_fail
from tests.support.servers import rabbitmq
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQ


@pytest.fixture(params=["rabbitmq_url", "valkey_url"])
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def settings(broker_url: str) -> BrokerSettings:
    return BrokerSettings(url=broker_url, confirm_timeout_seconds=5)


@pytest.fixture
def app(settings: BrokerSettings) -> Iterator[Celery]:
    app = create_app(settings)
    yield app
    app.close()


@pytest.fixture
def queue() -> str:
    return f"queue-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def publishers(app: Celery, settings: BrokerSettings) -> Iterator[Callable[[int], Publisher]]:
    """Opens publishers for sessions, and closes them in the end."""
    opened: list[Publisher] = []

    def open_one(session_id: int) -> Publisher:
        opened.append(open_publisher(app, settings, session_id))
        return opened[-1]

    yield open_one
    for publisher in opened:
        publisher.close()


@pytest.fixture
def publisher(publishers: Callable[[int], Publisher]) -> Publisher:
    return publishers(1)


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """Puts a proxy before a broker."""
    started: list[Proxy] = []

    def start(url: str, tls: ssl.SSLContext | None = None) -> Proxy:
        started.append(Proxy(url, tls))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture(scope="session")
def mortal_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node that tests kill; who does starts it again. Use names of queues that are your own."""
    if reason := rabbitmq.missing():
        skip_or_fail(reason)
    server = RabbitMQ(tmp_path_factory.mktemp("mortal-rabbitmq"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def messages(count: int, name: str = "load") -> list[Message]:
    """Fresh messages."""
    return [Message(str(uuid.uuid4()), name, [f"https://example.org/{n}"], {"visit": n}) for n in range(count)]


def check_session() -> None:
    """The lock session is fine."""


class Locked:
    """A queue that a publisher has locked, and what fits in it."""

    def __init__(self, publisher: Publisher, queue: str, limit: int | None) -> None:
        self._publisher, self._queue, self._limit = publisher, queue, limit

    def capacity(self) -> int | None:
        """How many more messages fit; None for any number."""
        depth = self._publisher.depth(self._queue)
        return None if self._limit is None else max(0, self._limit - depth)

    def publish(self, sent: Sequence[Message], check_session: Callable[[], None]) -> PublishResult:
        """Send without waiting."""
        return self._publisher.publish(self._queue, sent, self._limit, check_session)

    def wait(self, result: PublishResult) -> None:
        """Wait for the confirms."""
        self._publisher.wait_for_confirms(result)


@contextmanager
def lock(publisher: Publisher, queue: str, limit: int | None) -> Iterator[Locked | None]:
    """Lock a queue, and unlock it in the end; None where another publisher has locked it."""
    if not publisher.lock(queue):
        yield None
        return
    try:
        yield Locked(publisher, queue, limit)
    finally:
        publisher.unlock(queue)


def send_all(locked: Locked, sent: Sequence[Message], check_session: Callable[[], None]) -> set[str]:
    """Send, and wait for the confirms: the ids that the broker has for certain."""
    result = locked.publish(sent, check_session)
    locked.wait(result)
    return result.confirmed
