"""The classes of hostile messages, each by its name, so that one alone can be played again."""

from __future__ import annotations

import enum
import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from faults.attack.wire import Message

TASK_EVENTS = (
    *("task-received", "task-started", "task-result", "task-succeeded", "task-failed", "task-retried"),
    *("task-revoked", "task-rejected"),
)
WORKER_EVENTS = ("worker-online", "worker-offline", "worker-heartbeat")
# Keys that the event queue is bound by.
KEYS = (b"task.failed", b"task.result", b"task.multi", b"task.sent", b"worker.online", b"worker.offline")


class Fate(enum.Enum):
    """What has to become of a message of a class."""

    REJECTED = "rejected with a reason: nobody can read it"
    SILENT = "acknowledged: it says nothing"
    HEARD = "read or rejected, as the program sees fit; it may say something of a run that is nobody's concern"


@dataclass(frozen=True)
class Source:
    """What messages are made from: dice, and the ids of open runs that hostile messages may end as they like."""

    dice: Random
    baits: Sequence[str]

    def event(self, kind: str | None = None, **fields: Any) -> dict[str, Any]:
        """An event as a worker sends it, about such a run, with some fields otherwise."""
        kind = kind or self.dice.choice(TASK_EVENTS)
        event: dict[str, Any] = {"type": kind, "timestamp": time.time(), "hostname": "w@attack", "pid": 7, "clock": 5}
        if kind in TASK_EVENTS:
            event["uuid"] = self.bait()
        if kind == "task-result":
            event["result"] = {"status": "eventful"}
        return event | fields

    def bait(self) -> str:
        """The id of a run that is there to be hit."""
        return self.dice.choice(self.baits)

    def foreign(self) -> str:
        """The id of somebody else's task."""
        return str(uuid.UUID(int=self.dice.getrandbits(128), version=4))

    def rubbish(self, size: int) -> bytes:
        """Bytes by chance."""
        return self.dice.randbytes(size)


Make = Callable[[Source], Message]


@dataclass(frozen=True)
class Class:
    """A class of hostile messages. Few of a ``heavy`` one are in a round: megabytes, or thousands of elements.

    A ``refusable`` one is malformed by AMQP's own rules, so that the broker may keep it from everybody.
    """

    name: str
    make: Make
    fate: Fate
    heavy: bool = False
    refusable: bool = False


CLASSES: dict[str, Class] = {}


def properties(name: str) -> Callable[[Make], Make]:
    """Make a class of the messages that a function makes; their bodies are events of others."""

    def register(make: Make) -> Make:
        CLASSES[name] = Class(name, make, Fate.HEARD, refusable=True)
        return make

    return register


def body(name: str, fate: Fate, *, heavy: bool = False) -> Callable[[Callable[[Source], bytes]], Make]:
    """Make a class of the bodies that a function makes, with the properties of an event."""

    def register(make: Callable[[Source], bytes]) -> Make:
        def message(source: Source) -> Message:
            made = make(source)
            if source.dice.random() < 0.1:  # straight into the queue
                return Message(made, key=b"swh-sched-runner.events.single", exchange=b"", properties=EVENT_PROPERTIES)
            return Message(made, key=source.dice.choice(KEYS), properties=EVENT_PROPERTIES)

        CLASSES[name] = Class(name, message, fate, heavy)
        return message

    return register


def encoded(value: Any) -> bytes:
    """JSON as Python writes it, NaN, Infinity and lone surrogates too."""
    return json.dumps(value).encode()


EVENT_PROPERTIES = {
    "content_type": b"\x10application/json",
    "content_encoding": b"\x05utf-8",
    "headers": b"\0\0\0\x16\x08hostnameS\0\0\0\x08w@attack",
    "delivery_mode": b"\x01",
    "priority": b"\0",
}
