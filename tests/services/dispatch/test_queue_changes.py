"""Queues that others purge, delete, declare, fill or bar while the runner fills them."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import pytest
from celery import Celery
from structlog.testing import capture_logs

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.factory import open_publisher
from swh_sched_runner.broker.redis.connection import RedisLink
from swh_sched_runner.config import BrokerSettings, QueueSettings, RunnerSettings
from swh_sched_runner.exc import QueueRefused
from swh_sched_runner.services.dispatch.runner import Runner
from swh_sched_runner.services.service import Heartbeat, Service
from tests.services.conftest import PRIORITY_QUEUE
from tests.support.interrupted import BeforeChunk, InterruptedPublisher
from tests.support.queues import depth, ids_of, take
from tests.support.samples import a_task, a_type
from tests.support.servers.rabbitmq import RabbitMQ
from tests.support.wait import until

QUEUE, OTHER_QUEUE, QUORUM_QUEUE = "tests.load-git", "tests.other", "tests.quorum"
BARRED, UNLOCKABLE = "barred", "unlockable"
QUORUM = {"x-queue-type": "quorum"}
LIMIT = 10

MakeRunner = Callable[..., Runner]
on_rabbitmq = pytest.mark.parametrize("broker_url", ["rabbitmq_url"], indirect=True)
on_redis = pytest.mark.parametrize("broker_url", ["valkey_url"], indirect=True)


@pytest.fixture
def broker(broker_url: str) -> BrokerSettings:
    return BrokerSettings(url=broker_url, confirm_timeout_seconds=5, queues={QUORUM_QUEUE: QueueSettings(QUORUM)})


@pytest.fixture
def interrupted_runner(
    dispatch: Dispatch, app: Celery, broker: BrokerSettings, closing: Callable[[Service], None]
) -> Callable[..., Runner]:
    """Makes a runner that ``before_chunk`` interrupts."""

    def make(before_chunk: BeforeChunk, **settings: Any) -> Runner:
        def open_one(session_id: int) -> Any:
            return InterruptedPublisher(open_publisher(app, broker, session_id), before_chunk)

        runner = Runner(dispatch, open_one, RunnerSettings(**settings), PRIORITY_QUEUE)
        closing(runner)
        return runner

    return make


@pytest.fixture
def limit(request: pytest.FixtureRequest, rabbitmq_url: str) -> Iterator[Callable[[str], str]]:
    """``limit(pattern)``: a broker URL for a user who may declare only queues that match."""
    if os.environ.get("TEST_AMQP_URL"):
        pytest.skip("the broker of TEST_AMQP_URL is not ours to add users to")
    server: RabbitMQ = request.getfixturevalue("rabbitmq_server")
    parts, user = urlsplit(rabbitmq_url), f"limited-{uuid.uuid4().hex[:8]}"
    server.api("PUT", f"/api/users/{user}", {"password": "secret", "tags": ""})

    def limited(pattern: str) -> str:
        allowed = {"configure": pattern, "write": ".*", "read": ".*"}
        server.api("PUT", f"/api/permissions/{quote(parts.path[1:], safe='')}/{user}", allowed)
        return urlunsplit(parts._replace(netloc=f"{user}:secret@127.0.0.1:{parts.port}"))

    yield limited
    server.api("DELETE", f"/api/users/{user}")


@pytest.fixture
def limited_url(limit: Callable[[str], str]) -> str:
    """A broker URL for a user who may not declare ``BARRED``, nor the lock of ``UNLOCKABLE``."""
    return limit(f"^(?!{BARRED}$|.*[.]{UNLOCKABLE}$)")


def run_all(runner: Runner) -> None:
    """As many rounds as the runner asks for, which must come to an end."""
    for _ in range(50):
        if not runner.run_once(Heartbeat()):
            return
    pytest.fail("the runner still asks for another round after 50")


def run_until(runner: Runner, condition: Callable[[], bool]) -> None:
    """Rounds, whether the runner asks for them or not, until the condition holds."""

    def after_a_round() -> bool:
        runner.run_once(Heartbeat())
        return condition()

    until(after_a_round, 30)


def fill_up(runner: Runner, app: Celery, queue: str = QUEUE, bound: int = LIMIT) -> None:
    """Rounds until the queue is full, and one more; never is it beyond its bound."""

    def full() -> bool:
        found = depth(app, queue)
        assert found <= bound
        return found == bound

    run_until(runner, full)
    runner.run_once(Heartbeat())
    assert full()


def create(backend: SchedulerBackend, name: str = "load-git", tasks: int = 15, **more: Any) -> None:
    """A type, by default with the bound ``LIMIT``, and due tasks."""
    backend.create_task_type(a_type(name, **{"max_queue_length": LIMIT, **more}))
    backend.create_tasks(a_task(n, name) for n in range(tasks))


def runs_of(backend: SchedulerBackend, name: str | None = None) -> list[str]:
    """The ids of all runs, or of those of one type; every one is open."""
    tasks = [task["id"] for task in backend.search_tasks() if name in (None, task["type"])]
    runs = backend.get_task_runs(tasks)
    assert {(run["status"], run["ended"]) for run in runs} <= {("scheduled", None)}
    return [run["backend_id"] for run in runs]


@contextmanager
def channel(app: Celery) -> Iterator[Any]:
    with connect(app) as connection:
        yield connection.default_channel


def purge(app: Celery, queue: str) -> int:
    """What was in the queue, thrown away."""
    with channel(app) as broker:
        return int(broker.queue_purge(queue))


def declare(app: Celery, queue: str, arguments: dict[str, Any]) -> None:
    """Declare a queue; one that exists with other arguments fails the test."""
    with channel(app) as broker:
        broker.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)


def delete(app: Celery, queue: str) -> None:
    with channel(app) as broker:
        broker.queue_delete(queue)


def once(action: Callable[[], object], *, at: int = 0, queue: str = QUEUE) -> BeforeChunk:
    """``action`` before chunk ``at`` of the first sending to the queue, ever."""
    done: list[None] = []

    def before_chunk(sent_to: str, chunk: int) -> None:
        if (sent_to, chunk, done) == (queue, at, []):
            done.append(None)
            action()

    return before_chunk


# Purged and deleted


def test_a_purged_queue_is_filled_to_its_limit_again_while_the_runs_stay_open(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery
) -> None:
    create(backend, tasks=25)
    runner = make_runner(batch_size=4)
    run_all(runner)

    assert purge(app, QUEUE) == LIMIT
    fill_up(runner, app)

    assert len(runs_of(backend)) == 2 * LIMIT
    assert ids_of(take(app, QUEUE)) == runs_of(backend)[LIMIT:]


def test_a_queue_that_is_purged_while_a_batch_is_sent_stays_within_its_limit(
    backend: SchedulerBackend, interrupted_runner: MakeRunner, app: Celery
) -> None:
    create(backend, tasks=700, max_queue_length=300)
    purged: list[int] = []

    def purge_what_has_arrived() -> None:
        until(lambda: depth(app, QUEUE))
        purged.append(purge(app, QUEUE))

    fill_up(interrupted_runner(once(purge_what_has_arrived, at=1)), app, bound=300)

    assert len(purged) == 1
    assert 0 < purged[0] < 300  # in the middle of the batch
    assert len(runs_of(backend)) == 300 + purged[0]
    assert set(ids_of(take(app, QUEUE))) < set(runs_of(backend))


@on_rabbitmq
def test_messages_whose_queue_was_deleted_on_their_way_arrive_in_the_declared_one(
    backend: SchedulerBackend, interrupted_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend, tasks=LIMIT)
    runner = interrupted_runner(once(lambda: delete(app, QUEUE)))
    runner.run_once(Heartbeat())
    unconfirmed = runs_of(backend)

    fill_up(runner, app)

    assert len(unconfirmed) == LIMIT
    assert ids_of(take(app, QUEUE)) == unconfirmed == runs_of(backend)


@on_redis
def test_a_list_that_is_deleted_while_a_batch_is_sent_is_filled_to_its_limit_again(
    backend: SchedulerBackend, interrupted_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend, tasks=700, max_queue_length=300)
    keys = RedisLink(app).client
    deleted: list[int] = []

    def delete_list() -> None:
        deleted.append(depth(app, QUEUE))
        keys.delete(QUEUE)

    fill_up(interrupted_runner(once(delete_list, at=1)), app, bound=300)

    assert 0 < deleted[0] < 300
    assert len(runs_of(backend)) == 300 + deleted[0]


# Declared by others


@on_rabbitmq
@pytest.mark.parametrize("arguments", [QUORUM, {"x-max-length": 1000}, {"x-max-priority": 5}], ids=str)
def test_a_queue_that_others_declared_anew_is_filled_as_it_is(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, broker_url: str, arguments: dict[str, Any]
) -> None:
    create(backend, tasks=25)
    runner = make_runner(batch_size=4)
    run_all(runner)

    delete(app, QUEUE)
    declare(app, QUEUE, arguments)
    fill_up(runner, app)

    assert ids_of(take(app, QUEUE)) == runs_of(backend)[LIMIT:]
    declare(app, QUEUE, arguments)  # is what it was


@on_rabbitmq
def test_a_queue_that_is_missing_is_declared_as_configured_however_it_was_before(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend, "quorum", tasks=25)
    declare(app, QUORUM_QUEUE, {"x-max-length": 1000})
    runner = make_runner()
    run_all(runner)
    assert depth(app, QUORUM_QUEUE) == LIMIT

    delete(app, QUORUM_QUEUE)
    fill_up(runner, app, QUORUM_QUEUE)

    declare(app, QUORUM_QUEUE, QUORUM)
    assert len(runs_of(backend)) == 2 * LIMIT


@on_rabbitmq
def test_what_a_full_queue_rejects_stays_unconfirmed_and_is_sent_again_later(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend, tasks=15)
    create(backend, "other", tasks=3)
    declare(app, QUEUE, {"x-max-length": 4, "x-overflow": "reject-publish"})
    runner = make_runner()

    run_all(runner)  # comes to an end: what is rejected is no reason for another round at once
    assert depth(app, QUEUE) == 4
    assert depth(app, OTHER_QUEUE) == 3
    run_all(runner)
    assert len(runs_of(backend, "load-git")) == LIMIT  # nothing new before what is unconfirmed

    arrived: list[str] = []

    def four_at_most_arrive() -> bool:
        more = ids_of(take(app, QUEUE))
        assert len(more) <= 4
        arrived.extend(more)
        return len(arrived) >= 15

    run_until(runner, four_at_most_arrive)
    assert sorted(arrived) == sorted(runs_of(backend, "load-git"))
    assert len(arrived) == 15


# Other publishers


def test_nothing_is_sent_to_a_queue_that_others_filled_beyond_its_limit(
    backend: SchedulerBackend, interrupted_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend, tasks=15)

    def push_foreign() -> None:
        for _ in range(LIMIT + 2):
            app.send_task("foreign", queue=QUEUE)

    runner = interrupted_runner(once(push_foreign))
    run_all(runner)
    # Capacity that was read from RabbitMQ is gone when it is sent; on Redis reading and sending are one.
    lifted = 2 * LIMIT + 2 if broker_url.startswith("amqp") else LIMIT + 2

    arrived = []
    for excess in range(lifted, LIMIT - 1, -1):
        run_all(runner)
        assert depth(app, QUEUE) == excess
        arrived += take(app, QUEUE, 1)
    fill_up(runner, app)

    def all_arrive() -> bool:
        arrived.extend(take(app, QUEUE))
        return len(arrived) >= LIMIT + 2 + 15

    run_until(runner, all_arrive)
    tasks = Counter(message.headers["task"] for message in arrived)
    assert tasks == {"foreign": LIMIT + 2, QUEUE: 15}
    ours = [message.headers["id"] for message in arrived if message.headers["task"] == QUEUE]
    assert sorted(ours) == sorted(runs_of(backend))


# Barred by the broker


def assert_left_alone(backend: SchedulerBackend, app: Celery, name: str) -> None:
    """The type's tasks are due as before, and those of ``other`` were dispatched."""
    assert runs_of(backend, name) == []
    assert len(backend.peek_ready_tasks(name)) == 15
    assert depth(app, OTHER_QUEUE) == LIMIT


def why_left_alone(logs: Sequence[Mapping[str, Any]], queue: str) -> str:
    """What the log says, of this queue and of no other."""
    said = {(log["queue"], log["reason"]) for log in logs if log["event"] == "queue skipped"}
    [(named, reason)] = said
    assert named == queue
    return str(reason)


@pytest.mark.parametrize("broker_url", ["limited_url"], indirect=True)
def test_a_queue_that_may_not_be_declared_waits_until_somebody_else_declares_it(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, broker_url: str, rabbitmq_url: str
) -> None:
    create(backend, "a", backend_name=BARRED)
    create(backend, "other")
    runner = make_runner()
    with capture_logs() as logs:
        run_all(runner)
    assert_left_alone(backend, app, "a")
    assert "ACCESS_REFUSED" in why_left_alone(logs, BARRED)

    with Celery(broker=rabbitmq_url, set_as_current=False) as allowed:
        declare(allowed, BARRED, {})

    fill_up(runner, app, BARRED)


@pytest.mark.parametrize("broker_url", ["limited_url"], indirect=True)
def test_a_queue_whose_lock_may_not_be_declared_is_left_alone(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend, "a", backend_name=UNLOCKABLE)
    create(backend, "other")

    with capture_logs() as logs:
        run_all(make_runner())

    assert_left_alone(backend, app, "a")
    assert f"swh-sched-runner.lease.{UNLOCKABLE}" in why_left_alone(logs, UNLOCKABLE)


@on_rabbitmq
def test_a_user_who_may_not_declare_the_locks_is_told_so(broker_url: str, limit: Callable[[str], str]) -> None:
    settings = BrokerSettings(url=limit("^tests[.]"))

    with pytest.raises(QueueRefused, match=r"swh-sched-runner\.session\.1.*ACCESS_REFUSED"):
        open_publisher(create_app(settings), settings, 1)


@on_rabbitmq
def test_a_queue_is_left_alone_while_it_belongs_to_a_connection_of_others(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend)
    create(backend, "other")
    runner = make_runner()
    with channel(app) as others:
        others.queue_declare(QUEUE, exclusive=True)

        run_all(runner)

        assert_left_alone(backend, app, "load-git")
    fill_up(runner, app)


@on_redis
def test_a_key_that_is_no_list_is_left_alone_as_long_as_it_is_there(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend)
    create(backend, "other")
    keys = RedisLink(app).client
    keys.set(QUEUE, "this is no list")
    runner = make_runner()

    run_all(runner)

    assert_left_alone(backend, app, "load-git")
    assert keys.get(QUEUE) == b"this is no list"
    keys.delete(QUEUE)
    fill_up(runner, app)


@on_redis
def test_a_key_that_becomes_no_list_during_a_send_stops_its_batch_and_no_other_queue(
    backend: SchedulerBackend, interrupted_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend, tasks=LIMIT)
    create(backend, "other")
    keys = RedisLink(app).client
    runner = interrupted_runner(once(lambda: keys.set(QUEUE, "this is no list")))

    run_all(runner)
    run_all(runner)

    unconfirmed = runs_of(backend, "load-git")
    assert len(unconfirmed) == LIMIT
    assert depth(app, OTHER_QUEUE) == LIMIT
    keys.delete(QUEUE)
    fill_up(runner, app)
    assert ids_of(take(app, QUEUE)) == unconfirmed == runs_of(backend, "load-git")


@on_rabbitmq
def test_a_queue_that_is_left_alone_is_named_once_and_not_in_every_round(
    backend: SchedulerBackend, make_runner: MakeRunner, app: Celery, broker_url: str
) -> None:
    create(backend)
    runner = make_runner()
    with channel(app) as others, capture_logs() as logs:
        others.queue_declare(QUEUE, exclusive=True)
        for _ in range(5):
            runner.run_once(Heartbeat())

    assert [log["queue"] for log in logs if log["event"] == "queue skipped"] == [QUEUE]
