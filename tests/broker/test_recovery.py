"""A private Valkey whose workers and listeners all died."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

import redis

from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.broker.factory import open_consumer, open_publisher
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.broker.redis.restore import restore_unacked, waiting_ids
from swh_sched_runner.config.settings import BrokerSettings
from tests.broker.conftest import check_session, lock, messages, send_all
from tests.support.processes.workers import StartWorker
from tests.support.wait import until


def test_what_dead_workers_had_in_hand_goes_back_into_its_queues(
    valkey_url: str, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    worker = start_worker(valkey_url, [queue], concurrency=1, config={"task_acks_late": True})
    sent = [str(uuid.uuid4()) for _ in range(3)]
    for task_id in sent:
        app.send_task("wait", [str(tmp_path / "never")], queue=queue, task_id=task_id)
    with (
        Queues(app) as queues,
        closing(redis.Redis.from_url(valkey_url.replace("redis+socket://", "unix://"))) as client,
    ):
        # A worker notes what it has in hand after it took it: what is lost in between, recovery messages again.
        until(lambda: client.hlen("unacked") == 3 and (tmp_path / "never.started").exists(), 30)
        worker.kill()
        assert waiting_ids(app, [queue]) == set()

        assert restore_unacked(app, settings) == 3

        assert queues.depth(queue) == 3
        assert waiting_ids(app, [queue, "another"]) == set(sent)
        assert restore_unacked(app, settings) == 0
        assert queues.depth(queue) == 3


def test_events_that_a_dead_listener_had_in_hand_go_back_and_stay_the_oldest(valkey_url: str) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    dead = open_consumer(app, settings, 10)
    with app.events.default_dispatcher(hostname="w@h") as dispatcher:
        for task_id in ("1", "2", "3"):
            dispatcher.send("task-started", uuid=task_id)
    in_hand = dead.receive(2, 1)

    assert restore_unacked(app, settings) == 2

    successor = open_consumer(app, settings, 10)
    again = successor.receive(3, 1)
    assert sorted(delivery.body for delivery in again[:2]) == sorted(delivery.body for delivery in in_hand)
    assert len(again) == 3
    dead.close()
    successor.close()


def test_waiting_ids_are_read_without_being_taken_whatever_lies_there(valkey_url: str, queue: str) -> None:
    settings = BrokerSettings(url=valkey_url)
    app = create_app(settings)
    publisher = open_publisher(app, settings, 1)
    sent = messages(2500)
    with lock(publisher, queue, None) as locked:
        assert locked is not None
        send_all(locked, sent, check_session)
    publisher.close()
    app.send_task("load", queue=queue, task_id="with priority", priority=9)

    expected = {message.id for message in sent} | {"with priority"}
    assert waiting_ids(app, [queue]) == expected
    assert waiting_ids(app, [queue]) == expected


def test_other_brokers_restore_by_themselves(rabbitmq_url: str) -> None:
    settings = BrokerSettings(url=rabbitmq_url)
    assert restore_unacked(create_app(settings), settings) == 0
