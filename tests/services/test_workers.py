"""Lives of real workers: how they are told apart, what they answer, and whether events of theirs are missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from celery import Celery
from sqlalchemy import text

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.workers.lives import LifeListed
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.broker.celery.inspection import inspect, read, single
from swh_sched_runner.broker.factory import open_consumer, open_heartbeats
from swh_sched_runner.broker.interface import Delivery
from swh_sched_runner.config import BrokerSettings, ListenerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.services.listener.heartbeats import Heartbeats
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.service import Heartbeat, Service
from tests.support.processes.workers import StartWorker
from tests.support.wait import until

QUEUE = "tests.lives"
COMPARED = "select audit_settled as clock, audit_processed + audit_starts + unmatched as processed from worker"
BEATS = ("--heartbeat-interval", "1")


@pytest.fixture
def broker_url(rabbitmq_url: str) -> str:
    return rabbitmq_url


class Dropping:
    """A consumer that drops every n-th task-started on its way to the listener."""

    def __init__(self, consumer: Any, every: int) -> None:
        self._consumer = consumer
        self._every = every
        self._seen = 0
        self.dropped = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def receive(self, *limits: float) -> list[Delivery]:
        return [self._filtered(delivery) for delivery in self._consumer.receive(*limits)]

    def _filtered(self, delivery: Delivery) -> Delivery:
        told = json.loads(delivery.body)
        kept = [event for event in (told if isinstance(told, list) else [told]) if self._is_kept(event)]
        body = json.dumps(kept).encode()
        return msgspec.structs.replace(delivery, body=body, size=len(body))

    def _is_kept(self, event: dict[str, Any]) -> bool:
        if event["type"] != "task-started":
            return True
        self._seen += 1
        self.dropped += self._seen % self._every == 0
        return self._seen % self._every != 0


class Fleet:
    """A listener and a recorder of heartbeats, run by the test."""

    def __init__(self, database: Database, listener: Listener, heartbeats: Heartbeats) -> None:
        self._database = database
        self._listener = listener
        self._heartbeats = heartbeats

    def lives(self) -> list[LifeListed]:
        """The lives that are known after a round of each service."""
        self._heartbeats.run_once(Heartbeat())
        while self._listener.run_once(Heartbeat()):
            pass
        return Workers(self._database).list(everything=True)

    def audited(self, processed: int) -> LifeListed:
        """The only life, once three heartbeats that count so many executions were compared."""
        compared: set[int] = set()

        def is_done() -> bool:
            self.lives()
            with self._database.engine.begin() as conn:  # an idle listener waits for longer than any event takes
                conn.execute(text("update worker set sampled = sampled - interval '1 minute'"))
            Dispatch(self._database).compare_at_rest()
            with self._database.engine.connect() as conn:
                row = conn.execute(text(COMPARED)).one()
            if row.processed == processed:
                compared.add(row.clock)
            return len(compared) >= 3

        until(is_done, 60 + processed / 10)
        [life] = self.lives()
        return life


@pytest.fixture
def make_fleet(
    database: Database, app: Celery, broker: BrokerSettings, closing: Callable[[Service], None]
) -> Callable[..., Fleet]:
    def make(wrap: Callable[[Any], Any] = lambda consumer: consumer) -> Fleet:
        settings = ListenerSettings(batch_size=100, flush_seconds=0.1, prefetch=200)
        listener = Listener(Dispatch(database), lambda: wrap(open_consumer(app, broker, settings.prefetch)), settings)
        heartbeats = Heartbeats(
            Workers(database), partial(open_heartbeats, app, broker), partial(inspect, app), record_seconds=0.5
        )
        closing(listener)
        closing(heartbeats)
        return Fleet(database, listener, heartbeats)

    return make


def test_a_worker_that_was_killed_and_came_back_is_another_life(
    make_fleet: Callable[..., Fleet], start_worker: StartWorker, broker_url: str
) -> None:
    fleet = make_fleet()
    worker = start_worker(broker_url, [QUEUE], name="w1", options=BEATS)
    until(lambda: any(life.queues for life in fleet.lives()), 60)
    [first] = fleet.lives()

    worker.kill()
    worker = start_worker(broker_url, [QUEUE], name="w1", options=BEATS)
    until(lambda: any(life.pool for life in fleet.lives()[1:]), 60)
    old, new = fleet.lives()

    assert (first.hostname, first.pool, first.blocks, first.queues) == ("w1@test", "prefork", False, [QUEUE])
    assert (first.software, first.online is not None, first.last_sign is not None) == ("py-celery", True, True)
    assert first.life is not None
    assert first.clock_offset is not None
    assert abs(first.clock_offset) < 30
    assert (old.id, old.ended_by, new.ended_by) == (first.id, "succeeded", None)
    assert old.life != new.life


NAMES = ("stock_echo", "stock_retry", "stock_ignore", "stock_fail")
POOLS = ("prefork", "solo", "threads")
THOUSAND = [pytest.param(pool, False, 250, marks=[pytest.mark.trial, pytest.mark.timeout(400)]) for pool in POOLS]


def send(app: Celery, of_each: int) -> int:
    """Send tasks that return, are retried once, are ignored, fail, so many of each; answers how often they begin."""
    for _ in range(of_each):
        for name in NAMES:
            app.send_task(name, queue=QUEUE)
    return 5 * of_each


@pytest.mark.parametrize(
    ("pool", "stock", "of_each"),
    [("prefork", True, 5), ("solo", False, 5), ("threads", False, 5), *THOUSAND],
)
def test_no_event_is_missing_after_retries_failures_and_tasks_that_are_ignored(
    make_fleet: Callable[..., Fleet],
    start_worker: StartWorker,
    app: Celery,
    broker_url: str,
    pool: str,
    stock: bool,
    of_each: int,
) -> None:
    fleet = make_fleet()
    start_worker(broker_url, [QUEUE], options=BEATS, stock=stock, pool=pool)
    until(lambda: any(life.pool for life in fleet.lives()), 60)

    life = fleet.audited(processed=send(app, of_each))

    assert (life.life is None) is stock
    assert life.missing == 0


@pytest.mark.parametrize(("pool", "stock", "of_each"), [("prefork", False, 12), *THOUSAND])
def test_as_many_events_are_missing_as_were_dropped(
    make_fleet: Callable[..., Fleet],
    start_worker: StartWorker,
    app: Celery,
    broker_url: str,
    pool: str,
    stock: bool,
    of_each: int,
) -> None:
    droppings: list[Dropping] = []

    def wrap(consumer: Any) -> Dropping:
        droppings.append(Dropping(consumer, every=20))
        return droppings[-1]

    fleet = make_fleet(wrap)
    start_worker(broker_url, [QUEUE], options=BEATS, pool=pool, stock=stock)
    until(lambda: any(life.pool for life in fleet.lives()), 60)

    begun = send(app, of_each)
    life = fleet.audited(processed=begun)

    assert droppings[0].dropped == begun // 20
    assert life.missing == droppings[0].dropped


STATS = {"pid": 7, "pool": {"implementation": "celery.concurrency.solo:TaskPool"}, "broker": {"heartbeat": 60}}


@pytest.mark.parametrize(
    "replies",
    [
        None,
        "x",
        [{"w1@test": {"pid": "7"}}],
        [{"w1@test": {"error": "unknown command"}}],
        [{"w1@test": STATS | {"pid": -1}}],
        [{"w1@test": STATS | {"pool": []}}],
        [{"w1@test": STATS}, {"w1@test": STATS}],
        [{"w2@test": STATS}],
    ],
)
def test_answers_of_a_wrong_shape_doubled_or_unasked_are_none(replies: Any) -> None:
    answers = single(replies, ["w1@test"])

    assert [read(answer, None) for answer in answers.values()] in ([], [None])


def test_an_answer_says_pool_heartbeat_and_queues() -> None:
    answer = read(STATS, [{"name": "b"}, {"name": "a"}])
    assert answer is not None
    assert (answer.pid, answer.pool, answer.blocks, answer.heartbeat) == (7, "solo", True, 60.0)
    assert answer.queues == ["a", "b"]

    partly = read(STATS | {"broker": {"heartbeat": True}}, [{"name": 5}])
    assert partly is not None
    assert (partly.heartbeat, partly.queues) == (None, None)
