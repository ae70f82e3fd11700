"""What is sent in a round, in which order: good events, and hostile messages between them; all of it from the dice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from faults.attack import bodies, properties
from faults.attack.classes import CLASSES, EVENT_PROPERTIES, Class, Source, encoded
from faults.attack.wire import Message

# One in so many hostile messages is a heavy one; the heavy ones have at most so many bytes for each hostile message.
HEAVY_SHARE = 250
HEAVY_BYTES = 15_000
NAMES = sorted(CLASSES)
IMPORTED = (bodies, properties)  # their classes are in CLASSES by being imported

# What a run's last event says, and how the run has to end.
ENDS: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("eventful", "task-result", {"result": {"status": "success", "eventful": True}}),
    ("uneventful", "task-result", {"result": {"status": "success", "eventful": False}}),
    ("eventful", "task-result", {"result": {"status": "eventful"}}),
    ("uneventful", "task-result", {"result": {"status": "uneventful"}}),
    ("failed", "task-result", {"result": {"status": "failed", "error": "as planned"}}),
    ("permfailed", "task-result", {"result": {"status": "permfailed"}}),
    ("eventful", "task-result", {"result": 5}),
    ("uneventful", "task-result", {"result": None}),
    ("eventful", "task-succeeded", {"result": "'ok'", "runtime": 0.5}),
    ("failed", "task-failed", {"exception": "ValueError('as planned')", "traceback": "Traceback …\nValueError"}),
    ("failed", "task-revoked", {"terminated": True, "signum": 9, "expired": False}),
)


@dataclass(frozen=True)
class Sending:
    """A message of the round: the class of it if it is a hostile one, or whether it ends a good run."""

    message: Message
    hostile: Class | None = None
    ends: bool = False


def ends_of(dice: Random, runs: Sequence[str]) -> dict[str, tuple[str, str, Mapping[str, Any]]]:
    """How each run ends."""
    return {run: dice.choice(ENDS) for run in runs}


def planned(
    dice: Random,
    ends: Mapping[str, tuple[str, str, Mapping[str, Any]]],
    baits: Sequence[str],
    hostile: int,
    names: Sequence[str] = NAMES,
) -> list[Sending]:
    """All messages of a round, mixed; the heavy ones follow each other, so that many are in hand at once.

    The last one ends a run: where that is recorded, all before it is.
    """
    source = Source(dice, baits)
    light = [CLASSES[name] for name in names if not CLASSES[name].heavy]
    heavy = [CLASSES[name] for name in names if CLASSES[name].heavy]
    few = max(1, hostile // HEAVY_SHARE) if light and heavy else hostile
    sendings = [sending for run, end in ends.items() for sending in good_events(run, *end[1:])]
    if light:
        sendings += [_made(source, dice.choice(light)) for _ in range(hostile - (few if heavy else 0))]
    dice.shuffle(sendings)
    if heavy:
        at = dice.randrange(len(sendings) + 1)
        sendings[at:at] = _heavy(source, heavy, few, HEAVY_BYTES * max(hostile, 1_000))
    last = next((n for n in reversed(range(len(sendings))) if sendings[n].ends), None)
    if last is not None:
        sendings.append(sendings.pop(last))
    return sendings


def spares(dice: Random, baits: Sequence[str]) -> Iterator[Sending]:
    """Hostile messages that no broker refuses, without end."""
    source = Source(dice, baits)
    classes = [each for each in CLASSES.values() if not each.heavy and not each.refusable]
    while True:
        yield _made(source, dice.choice(classes))


def good_events(run: str, kind: str, fields: Mapping[str, Any]) -> list[Sending]:
    """What a worker tells of a run, a message each."""
    now = time.time()
    shared = {"uuid": run, "hostname": "w1@good", "pid": 11, "clock": 3, "utcoffset": 0}
    return [
        Sending(_event({"type": "task-started", "timestamp": now} | shared)),
        Sending(_event({"type": kind, "timestamp": now + 0.01} | shared | dict(fields)), ends=True),
    ]


def _event(event: Mapping[str, Any]) -> Message:
    key = str(event["type"]).replace("-", ".").encode()
    return Message(encoded(event), key=key, properties=EVENT_PROPERTIES)


def _made(source: Source, hostile: Class) -> Sending:
    return Sending(hostile.make(source), hostile)


def _heavy(source: Source, classes: Sequence[Class], count: int, most_bytes: int) -> list[Sending]:
    made: list[Sending] = []
    left = most_bytes
    while len(made) < count:
        sending = _made(source, source.dice.choice(classes))
        if len(sending.message.body) > left:  # a light one in its place
            sending = _made(source, CLASSES["thousands-of-elements"])
        left -= len(sending.message.body)
        made.append(sending)
    return made
