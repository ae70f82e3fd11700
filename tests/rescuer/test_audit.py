"""The audit of events while connections are cut and a listener is killed: it never reports a loss that there was not.

It took, in this order, on two loaded cores: 13 s, 40 s (trial).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kombu import Connection

from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.broker.celery.app import create_app
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from tests.support.fleet import BEATS, OTHER_QUEUE
from tests.support.processes.programs import Programs
from tests.support.processes.workers import StartWorker
from tests.support.servers.proxy import Proxy
from tests.support.wait import until

QUEUE = OTHER_QUEUE


@contextmanager
def starts(broker_url: str) -> Iterator[set[tuple[Any, ...]]]:
    """The task-started that reached the broker since, each once; complete when the context is left."""
    found: set[tuple[Any, ...]] = set()
    with Connection(broker_url) as connection, connection.channel() as channel:
        queue = channel.queue_declare("", exclusive=True).queue
        channel.exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
        channel.queue_bind(queue, "celeryev", "task.#")
        yield found
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            told = json.loads(message.body)
            events = told if isinstance(told, list) else [told]
            found |= {(e["pid"], e["clock"]) for e in events if e["type"] == "task-started"}


@pytest.mark.parametrize(
    ("cuts", "tasks"),
    [(1, 40), pytest.param(4, 250, marks=[pytest.mark.trial, pytest.mark.timeout(300)])],
)
def test_no_loss_is_reported_that_there_was_not(
    database: Database,
    programs: Programs,
    proxy: Proxy,
    start_worker: StartWorker,
    rabbitmq_url: str,
    cuts: int,
    tasks: int,
) -> None:
    app = create_app(BrokerSettings(url=rabbitmq_url))
    sent = 0
    reported: list[int] = []

    def send(count: int) -> None:
        nonlocal sent
        sent += count
        for _ in range(count):
            app.send_task("echo", queue=QUEUE)

    def is_compared() -> bool:
        """Whether a heartbeat was compared with the starts before it; notes how many are said to be missing."""
        missing = [life.missing for life in Workers(database).list() if life.missing is not None]
        reported.append(sum(missing))
        return bool(missing)

    def executed(all_but: int = 0) -> bool:
        is_compared()
        return len(worker.executions()) >= sent - all_but

    listener = programs.start("listen")
    until(lambda: "event=ready" in programs.log("listen"), 60)
    with starts(rabbitmq_url) as arrived:
        worker = start_worker(proxy.url, [QUEUE], name="w1", options=BEATS)
        for cut in range(cuts):
            send(tasks)
            until(lambda: executed(tasks // 2), 60)
            proxy.cut()
            if cut == cuts // 2:
                listener.kill()
                listener.wait()
                listener = programs.start("listen")
            until(executed, 60)
        while not is_compared():
            send(1)
            until(executed, 60)
        worker.stop()
    lost = len(worker.executions()) - len(arrived)

    sys.stdout.write(f"{sent} tasks, {lost} events lost, at most {max(reported)} of them noticed\n")
    assert 0 <= max(reported) <= lost
