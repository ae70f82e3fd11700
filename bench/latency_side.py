"""One side of bench/latency.py: creates tasks one at a time, at random times, and takes their messages.

Prints as JSON, for each task, the seconds from the call of create_tasks to its message's arrival, and to its return.
With ``load`` it creates ten tasks each tenth of a second instead, and takes theirs, until it is ended.
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlparse

import amqp

# A script beside this one: the baseline's environment has no package bench.
from create_side import KIND, SIDES, Side  # type: ignore[import-not-found]

GAP_SECONDS = (0.05, 0.35)
LOAD_TASKS, LOAD_SECONDS = 10, 0.1
WARM_UP = 5
PATIENCE_SECONDS = 30.0
NUMBER = re.compile(rb"/latency/(\d+)")


class Consumer:
    """Takes the messages of a queue as they come, in a thread, and notes when each task's arrived."""

    def __init__(self, broker: str, queue: str) -> None:
        parts = urlparse(broker)
        self.arrived: dict[int, float] = {}
        self._connection = amqp.Connection(f"{parts.hostname}:{parts.port}", parts.username, parts.password)
        self._connection.connect()
        channel = self._connection.channel()
        channel.basic_consume(queue, no_ack=True, callback=self._take)
        threading.Thread(target=self._drain, daemon=True).start()

    def _take(self, message: Any) -> None:
        now = time.perf_counter()
        body = message.body if isinstance(message.body, bytes) else message.body.encode()
        if found := NUMBER.search(body):  # in whichever way the body is serialised
            self.arrived[int(found[1])] = now

    def _drain(self) -> None:
        while True:
            self._connection.drain_events()


def create(side: Side, task_type: str, numbers: range) -> None:
    """Create tasks that are due now."""
    now = datetime.now(UTC)
    tasks = [side.task(f"https://forge.example/latency/{n}", now, task_type) for n in numbers]
    side.backend.create_tasks(tasks, policy="oneshot")


def wait(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing arrived for {PATIENCE_SECONDS:g} s")
        time.sleep(0.01)


def sample(side: Side, consumer: Consumer, samples: int, first: int) -> list[tuple[float, float]]:
    """For each task, seconds from the call to its message, and to the call's return."""
    called: dict[int, float] = {}
    returned: dict[int, float] = {}
    for n in range(first, first + samples + WARM_UP):
        time.sleep(random.uniform(*GAP_SECONDS))
        called[n] = time.perf_counter()
        create(side, "bench", range(n, n + 1))
        returned[n] = time.perf_counter()
        if n < first + WARM_UP:
            wait(lambda n=n: n in consumer.arrived)  # type: ignore[misc]
    wait(lambda: len(consumer.arrived.keys() & called.keys()) == len(called))
    return [(consumer.arrived[n] - called[n], returned[n] - called[n]) for n in list(called)[WARM_UP:]]


def load(side: Side, first: int) -> None:
    """A light load, until this process is ended."""
    while True:
        create(side, "load", range(first, first + LOAD_TASKS))
        first += LOAD_TASKS
        time.sleep(LOAD_SECONDS)


def main(name: str, url: str, broker: str, queue: str, work: str, samples: int, first: int) -> None:
    """Sample, or load."""
    side = SIDES[name](url)
    task_type = "load" if work == "load" else "bench"
    kind = KIND | {"type": task_type, "backend_name": queue, "max_queue_length": 100_000}
    side.backend.create_task_type(side.task_type(**kind))
    consumer = Consumer(broker, queue)
    if work == "load":
        load(side, first)
    sys.stdout.write(json.dumps(sample(side, consumer, samples, first)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:6], *map(int, sys.argv[6:]))  # type: ignore[arg-type]
