"""When a queue counts as drained: after nothing was left of it for as long as messages may be on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from celery import Celery

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Batch, Dispatch
from swh_sched_runner.backend.dispatch.ready import TaskGroup
from swh_sched_runner.backend.dispatch.session import DispatcherSession
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import BrokerUnavailable, DepthUnreadable
from swh_sched_runner.insight.drain import CHECK_SECONDS, OBEYED_SECONDS, Drain, DrainStatus
from tests.support.queues import take
from tests.support.samples import a_task, a_type

QUEUE = "tests.load-git"
GROUP = TaskGroup("load-git", QUEUE, 100, priority=False)

MakeDrain = Callable[..., Drain]


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def broker_url(valkey_url: str) -> str:
    return valkey_url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_drain(database: Database, app: Celery, broker: BrokerSettings, clock: Clock) -> Iterator[MakeDrain]:
    with Queues(app) as queues:
        yield lambda timeout=None: Drain(database, queues, broker, QUEUE, timeout, clock)


@pytest.fixture
def batch(backend: SchedulerBackend, dispatch: Dispatch, session: DispatcherSession) -> Batch:
    """The open batch of a runner, with one message for the queue."""
    backend.create_task_type(a_type())
    backend.create_tasks([a_task()])
    batch = dispatch.open_batch(session.id, QUEUE, GROUP, 10)
    assert batch is not None
    backend.pause_queue(QUEUE)
    return batch


def left(found: DrainStatus) -> tuple[int | None, int, int]:
    return found.left.depth, found.left.in_flight, found.left.unconfirmed


def test_an_empty_queue_is_drained_once_runners_have_obeyed_the_pause(make_drain: MakeDrain, clock: Clock) -> None:
    drain = make_drain()

    first = drain.check()
    clock.now += OBEYED_SECONDS - 0.1
    just_before = drain.check()
    clock.now += 0.1
    after = drain.check()

    assert [first.state, just_before.state, after.state] == ["draining", "draining", "drained"]
    assert first.wait_seconds == CHECK_SECONDS
    assert left(after) == (0, 0, 0)


def test_a_message_that_comes_meanwhile_starts_the_wait_again(make_drain: MakeDrain, clock: Clock, app: Celery) -> None:
    # given a queue that was empty, and gets what a runner had grabbed before the pause
    drain = make_drain()
    drain.check()
    app.send_task("foreign", queue=QUEUE)
    clock.now += OBEYED_SECONDS
    found = drain.check()
    assert (found.state, left(found)) == ("draining", (1, 0, 0))
    # when it is taken
    take(app, QUEUE)
    # then
    assert drain.check().state == "draining"
    clock.now += OBEYED_SECONDS
    assert drain.check().state == "drained"


def test_what_a_worker_has_is_waited_for(
    make_drain: MakeDrain,
    clock: Clock,
    backend: SchedulerBackend,
    dispatch: Dispatch,
    session: DispatcherSession,
    batch: Batch,
) -> None:
    # given a message that was sent and taken by a worker
    dispatch.close_batch(session.id, batch.id)
    drain = make_drain()
    drain.check()
    clock.now += 10 * OBEYED_SECONDS
    found = drain.check()
    assert (found.state, left(found)) == ("draining", (0, 1, 0))
    # when it ends
    backend.end_task_run(batch.messages[0].backend_id, "eventful")
    # then
    drain.check()
    clock.now += OBEYED_SECONDS
    assert drain.check().state == "drained"


def test_an_unconfirmed_message_is_waited_for_until_its_connection_is_given_up(
    make_drain: MakeDrain, clock: Clock, broker: BrokerSettings, batch: Batch
) -> None:
    assert broker.confirm_timeout_seconds > OBEYED_SECONDS
    drain = make_drain()

    drain.check()
    clock.now += broker.confirm_timeout_seconds - 0.1
    just_before = drain.check()
    clock.now += 0.1
    after = drain.check()

    assert (just_before.state, after.state) == ("draining", "drained")
    assert left(after) == (0, 1, 1)


def test_a_queue_that_can_not_be_read_is_not_drained(make_drain: MakeDrain, clock: Clock, app: Celery) -> None:
    # given a queue that was empty when it was read last
    client = RedisLink(app).client
    drain = make_drain()
    drain.check()
    client.set(QUEUE, "this is no list")
    clock.now += OBEYED_SECONDS
    # when it can't be read, and can be again
    unreadable = drain.check()
    client.delete(QUEUE)
    again = drain.check()
    clock.now += OBEYED_SECONDS
    # then the wait has begun again
    assert (unreadable.state, again.state, drain.check().state) == ("draining", "draining", "drained")
    assert unreadable.left.depth is None
    assert unreadable.left.unreadable is not None
    assert QUEUE in unreadable.left.unreadable


def test_a_drain_times_out_counted_from_its_first_check(make_drain: MakeDrain, clock: Clock, app: Celery) -> None:
    app.send_task("foreign", queue=QUEUE)
    drain = make_drain(CHECK_SECONDS * 1.5)
    clock.now += 100

    waits = []
    while (found := drain.check()).state == "draining":
        waits.append(found.wait_seconds)
        clock.now += found.wait_seconds

    assert (found.state, left(found)) == ("timed_out", (1, 0, 0))
    assert waits == [CHECK_SECONDS, CHECK_SECONDS / 2]


def test_a_queue_that_is_drained_when_time_is_over_is_drained(make_drain: MakeDrain, clock: Clock) -> None:
    drain = make_drain(OBEYED_SECONDS)
    drain.check()
    clock.now += OBEYED_SECONDS

    assert drain.check().state == "drained"


def test_a_depth_that_can_not_be_read_is_an_error_before_anything_is_paused(
    make_drain: MakeDrain, app: Celery, database: Database, broker: BrokerSettings
) -> None:
    away = create_app(BrokerSettings(url="amqp://guest:hidden@127.0.0.1:1//"))
    RedisLink(app).client.set(QUEUE, "this is no list")

    with pytest.raises(DepthUnreadable):
        make_drain().require_depth()
    with Queues(away) as queues, pytest.raises(BrokerUnavailable):
        Drain(database, queues, broker, QUEUE).require_depth()
