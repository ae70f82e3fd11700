"""How well short queues are fed: many queues with a small limit, each emptied steadily. See bench/README.md."""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import amqp
import click

from bench.baseline import Servers, measured_on, servers, system_binaries
from bench.dispatch_run import Watched, started
from bench.dispatch_side import Ours, Work
from bench.report import command, publish, table

QUEUES, LIMIT, RATE = 20, 5, 20.0  # messages a second that are taken of each
THREADS = 4
WARM_UP_SECONDS = 3.0
TARGET = 0.05
TITLE = "### Feeding short queues"


@dataclass
class Consumer:
    """Takes a message of each of its queues at a steady rate, and notes how often there was none."""

    broker: str
    queues: Sequence[str]
    until: float
    since: float

    def __post_init__(self) -> None:
        self.looks = dict.fromkeys(self.queues, 0)
        self.empty = dict.fromkeys(self.queues, 0)
        self.error: Exception | None = None

    def run(self) -> None:
        """Until its time is over."""
        try:
            self._run()
        except Exception as error:  # told by who started the thread
            self.error = error

    def _run(self) -> None:
        parts = urlparse(self.broker)
        with amqp.Connection(f"{parts.hostname}:{parts.port}", parts.username, parts.password) as connection:
            channel = connection.channel()
            at = {queue: time.monotonic() + random.random() / RATE for queue in self.queues}
            while time.monotonic() < self.until:
                queue = min(at, key=lambda each: at[each])
                time.sleep(max(0.0, at[queue] - time.monotonic()))
                at[queue] += 1 / RATE
                message = channel.basic_get(queue, no_ack=True)
                if time.monotonic() >= self.since:
                    self.looks[queue] += 1
                    self.empty[queue] += message is None


def measure(both: Servers, seconds: float) -> list[Consumer]:
    """Feed the queues for so long; every one has due tasks for all of that time."""
    side = Ours(both)
    side.make("ours_feeding")
    tasks = int(QUEUES * RATE * (seconds + WARM_UP_SECONDS) * 1.5)
    work = Work(tasks, QUEUES, bound=LIMIT)
    with side.prepared(work) as name, Watched(both, work), ExitStack() as stack:
        stack.enter_context(started(side, name))
        begin = time.monotonic() + WARM_UP_SECONDS
        names = list(work.queues())
        url = both.broker.url()
        consumers = [Consumer(url, names[n::THREADS], begin + seconds, begin) for n in range(THREADS)]
        threads = [threading.Thread(target=consumer.run) for consumer in consumers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for consumer in consumers:
        if consumer.error is not None:
            raise click.ClickException(f"a consumer failed: {consumer.error}")
    return consumers


def report(consumers: Sequence[Consumer], seconds: float) -> str:
    """The table."""
    looks = sum(sum(consumer.looks.values()) for consumer in consumers)
    empty = sum(sum(consumer.empty.values()) for consumer in consumers)
    shares = [consumer.empty[queue] / consumer.looks[queue] for consumer in consumers for queue in consumer.queues]
    heads = ["queues", "limit", "taken, messages/s", "samples", "empty", "empty, the worst queue"]
    rate = f"{(looks - empty) / seconds:,.0f}"
    return table(heads, [[str(QUEUES), str(LIMIT), rate, f"{looks:,}", f"{empty / looks:.1%}", f"{max(shares):.1%}"]])


def main() -> None:
    """Measure; print a table, or write it to docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="60 seconds instead of 15")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    seconds = 60.0 if options.full else 15.0
    binaries = system_binaries()
    with tempfile.TemporaryDirectory() as name, servers(Path(name), binaries) as both:
        consumers = measure(both, seconds)
        size = f"one runner; of each queue {RATE:g} messages a second are taken, each take is a sample"
        head = f"{command('bench-feeding', options.full)}: {measured_on(binaries, both.broker_version(), size)}"
        target = f"Target: no queue is empty in more than {TARGET:.0%} of the samples."
        publish("feeding", "\n\n".join([TITLE, head, report(consumers, seconds), target]), write=options.write)


if __name__ == "__main__":
    main()
