"""What the judge knows without the database: what workers wrote, which events the broker got, who was killed when."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import drainer
from faults.lost.load import course

COPY = "faults.copy"
EXCHANGE = "celeryev"
EVENTS_OF_TASKS = "task.#"
UNCERTAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Death:
    """The main process of a worker was killed."""

    life: int
    at: float


@dataclass(frozen=True)
class Span:
    """From when to when a server or a network was away."""

    began: float
    ended: float

    def touches(self, began: float, ended: float) -> bool:
        """Whether both have a moment in common."""
        return self.began <= ended and began <= self.ended


@dataclass
class Execution:
    """An attempt at a run, by a life; ``name`` is that of the Celery task.

    ``status`` is what had to be reported, "retried" if another attempt follows.
    """

    run: str
    task: int
    name: str
    life: int
    began: float
    ended: float | None = None
    status: str | None = None


@dataclass(frozen=True)
class Event:
    """What a worker said of a run, as the broker got it."""

    run: str
    kind: str
    at: float
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """All of it. ``outages`` are those of the broker, ``cuts`` the times at which a worker had no network."""

    executions: Mapping[str, Sequence[Execution]] = field(default_factory=dict)
    events: Mapping[str, Sequence[Event]] = field(default_factory=dict)
    deaths: Mapping[int, float] = field(default_factory=dict)
    outages: Sequence[Span] = ()
    cuts: Sequence[Span] = ()

    def is_uncertain(self, at: float) -> bool:
        """Whether the broker ended so soon after an event that only one of two queues may have got it."""
        return any(outage.began - UNCERTAIN_SECONDS <= at <= outage.ended for outage in self.outages)

    def broker_was_away(self, began: float, ended: float) -> bool:
        """Whether what somebody sent meanwhile may have been lost on its way."""
        return any(
            span.touches(began - UNCERTAIN_SECONDS, ended + UNCERTAIN_SECONDS) for span in (*self.outages, *self.cuts)
        )


def read_executions(file: Path) -> dict[str, list[Execution]]:
    """What workers wrote, by run, in the order of beginning."""
    found: dict[str, list[Execution]] = defaultdict(list)
    going: dict[int, Execution] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        said = json.loads(line)
        if said["what"] == "began":
            going[said["pid"]] = Execution(said["run"], said["task"], said["name"], said["life"], said["at"])
            found[said["run"]].append(going[said["pid"]])
        else:
            execution = going[said["pid"]]
            assert execution.run == said["run"]
            execution.ended, execution.status = said["at"], said["status"]
    return found


def long_executions(file: Path) -> set[int]:
    """The lives that execute something long now, as they wrote."""
    executions = (each for of_run in read_executions(file).values() for each in of_run)
    return {each.life for each in executions if each.ended is None and course(each.run, each.name).is_long}


def copy_events(broker_url: str) -> None:
    """From now on keep a copy of each event of a task."""
    with drainer.connect(broker_url) as connection:
        channel = connection.channel()
        channel.queue_declare(COPY, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        channel.queue_bind(COPY, EXCHANGE, EVENTS_OF_TASKS)


def read_events(broker_url: str) -> dict[str, list[Event]]:
    """All events of tasks that the broker got, by run."""
    found: dict[str, list[Event]] = defaultdict(list)
    with drainer.connect(broker_url) as connection:
        channel = connection.channel()
        while (message := channel.basic_get(COPY, no_ack=True)) is not None:
            body = json.loads(message.body)
            for said in body if isinstance(body, list) else [body]:
                found[said["uuid"]].append(Event(said["uuid"], said["type"], said["timestamp"], said))
    return found
