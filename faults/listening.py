"""The listener of a round, which hears what the drainer tells: a fleet of one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import amqp

from faults import drainer
from faults.fleet import Fleet, Slot

QUEUE = "swh-sched-runner.events.single"
# The number of its slot; runners count from 0.
SLOT = 100
START_SECONDS = 10.0
LOOK_SECONDS = 0.03


def start(fleet: Fleet, broker_url: str, environment: Mapping[str, str], log: Path) -> None:
    """Start it, and wait until its queue is there: what is told before is told to nobody."""
    fleet.slots = [Slot(SLOT, ["listen"], environment, log)]
    fleet.start(fleet.slots[0])
    deadline = time.monotonic() + START_SECONDS
    while waiting(broker_url) is None and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def end(fleet: Fleet, broker_url: str) -> list[str]:
    """End it; objections if events are left."""
    fleet.stop()
    left = waiting(broker_url)
    return [] if left == 0 else [f"events left in their queue: {left}"]


def waiting(broker_url: str) -> int | None:
    """How many messages its queue holds; None if it is not there, or the broker isn't."""
    try:
        with drainer.connect(broker_url) as connection:
            return int(connection.channel().queue_declare(QUEUE, passive=True).message_count)
    except (amqp.AMQPError, OSError):
        return None
