"""One round of an attack: what is sent, and what the listener has to make of it."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from faults.attack.classes import Fate
from faults.attack.plan import NAMES, Sending, ends_of, planned, spares
from faults.attack.target import Target, open_runs
from faults.attack.wire import Message, Refused, Wire
from faults.servers import Servers

MEGABYTE = 1_000_000
MOST_BYTES = 120 * MEGABYTE
# What the broker takes: its default, which is above all that is sent.
MAX_MESSAGE_BYTES = 134_217_728
BAITS = 50
# A class that the broker has refused so often, and never taken, is not tried again.
TRIES = 3
# Messages that the broker has and hasn't confirmed yet.
WINDOW = 200
LOOK_SECONDS = 0.2
COUNTING_SECONDS = 3.0
ENDED = "select backend_id, cast(status as text) from task_run where ended is not null"
SET_ASIDE = "select count(*) from rejected_event"


@dataclass
class Result:
    """What a round came to; ``refused`` are the messages that the broker kept from the listener, by class.

    ``only`` is the one class that was sent, if it was one.
    """

    seed: int
    only: str = ""
    hostile: int = 0
    good: int = 0
    applied: int = 0
    unreadable: int = 0
    silent: int = 0
    rejected: int = 0
    heard: int = 0
    restarts: int = 0
    process_restarts: int = 0
    peak_bytes: int = 0
    seconds: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def messages(self) -> int:
        """How many were sent that say something, or can't be read."""
        return self.hostile - self.silent + 2 * self.good

    def judge(self, wrong: Sequence[str], left: int, status: int) -> None:
        """Say what does not hold: runs with a ``wrong`` end, messages ``left``, the exit ``status``."""
        for holds, what in (
            (self.applied == self.good, f"{self.good - self.applied} of {self.good} good runs not ended"),
            (not wrong, f"{len(wrong)} good runs ended otherwise than their events say: {', '.join(wrong[:3])}"),
            (self.rejected >= self.unreadable, f"{self.unreadable} unreadable messages, {self.rejected} rejected"),
            (self.heard >= self.messages, f"{self.messages} messages, {self.heard} counted as events or rejected"),
            (self.restarts == 0, f"the service was started anew {self.restarts} times"),
            (self.process_restarts == 0, f"the process ended {self.process_restarts} times"),
            (self.peak_bytes <= MOST_BYTES, f"{self.peak_bytes / MEGABYTE:.0f} MB of memory"),
            (left == 0, f"{left} messages left in the queue"),
            (status == 0, f"exit status {status}"),
        ):
            if not holds:
                self.violations.append(what)

    def __str__(self) -> str:
        facts: dict[str, object] = {
            **({"class": self.only} if self.only else {}),
            "seed": self.seed,
            "hostile": self.hostile,
            "good": f"{self.applied}/{self.good}",
            "unreadable": self.unreadable,
            "rejected": self.rejected,
            "restarts": self.restarts + self.process_restarts,
            "peak": f"{self.peak_bytes / MEGABYTE:.0f}MB",
            "refused-by-broker": len(self.refused),
            "took": f"{self.seconds:.1f}s",
        }
        line = " ".join(f"{name}={value}" for name, value in facts.items())
        return line + "".join(f"\n    VIOLATION {violation}" for violation in self.violations)


class Attack:
    """One round, to be played once; files go to ``directory``."""

    def __init__(
        self, servers: Servers, directory: Path, seed: int, hostile: int, good: int, names: Sequence[str] = NAMES
    ) -> None:
        self.result = Result(seed, names[0] if len(names) == 1 else "", good=good)
        self._servers = servers
        self._directory = directory
        self._dice = Random(seed)
        self._hostile = hostile
        self._names = names
        # A listener that stands still is given up, with its violations.
        self._patience_seconds = 15 + hostile / 40

    def run(self) -> Result:
        """Play it to its end."""
        self._directory.mkdir(parents=True)
        started = time.monotonic()
        with self._servers.fresh() as endpoints, closing(Target(endpoints, self._directory)) as target:
            runs, baits = (self._ids(count) for count in (self.result.good, BAITS))
            open_runs(endpoints.database_url, [*runs, *baits])
            ends = ends_of(self._dice, runs)
            sendings = planned(self._dice, ends, baits, self._hostile, self._names)
            target.start()
            target.stop()  # its queue is there; half of the messages wait in it when it comes back
            half = len(sendings) // 2
            spare = spares(Random(f"spares of {self.result.seed}"), baits)
            with closing(Sender(endpoints.broker_url, self.result, spare)) as sender:
                sender.send(sendings[:half])
                target.start()
                sender.send(sendings[half:], meanwhile=target.look)
            self._wait(target, {run: end[0] for run, end in ends.items()})
        self.result.seconds = time.monotonic() - started
        return self.result

    def _ids(self, count: int) -> list[str]:
        return [str(uuid.UUID(int=self._dice.getrandbits(128), version=4)) for _ in range(count)]

    def _wait(self, target: Target, ends: dict[str, str]) -> None:
        """Until all is applied and nothing is left, or patience ends; then judge."""
        result, deadline = self.result, time.monotonic() + self._patience_seconds
        found: dict[object, object] = {}
        left = -1
        while time.monotonic() < deadline and (result.applied < result.good or left):
            target.look()
            found = {run: status for run, status in target.ask(ENDED) if run in ends}
            result.applied, left = len(found), target.left()
            time.sleep(LOOK_SECONDS)
        self._count(target)
        result.restarts, result.process_restarts = target.service_restarts, target.process_restarts
        result.peak_bytes = target.peak_bytes
        wrong = [f"{run} {status}" for run, status in found.items() if status != ends[str(run)]]
        status = target.stop()
        result.judge(wrong, target.left(), status)

    def _count(self, target: Target) -> None:
        """What the listener has counted; it counts shortly after it has recorded."""
        result, deadline = self.result, time.monotonic() + COUNTING_SECONDS
        while True:
            target.look()
            ((rejected,),) = target.ask(SET_ASIDE)
            result.rejected = int(str(rejected)) + int(target.counted("rejected_events_dropped"))
            result.heard = int(target.counted("events")) + result.rejected
            if result.heard >= result.messages or time.monotonic() > deadline:
                return
            time.sleep(LOOK_SECONDS)


class Sender:
    """Sends, and counts what arrived. What the broker closes its connection for never reaches the listener."""

    def __init__(self, url: str, result: Result, spares: Iterator[Sending]) -> None:
        """One of ``spares`` goes in the place of each message that the broker refuses."""
        self._url = url
        self._result = result
        self._spares = spares
        self._tried, self._taken = Counter[str](), set[str]()
        self._wire = Wire(url)

    def send(self, sendings: Sequence[Sending], meanwhile: Callable[[], object] = lambda: None) -> None:
        """Send these in their order; returns when the broker has them."""
        looked = time.monotonic()
        for sending in sendings:
            if time.monotonic() - looked > LOOK_SECONDS:
                meanwhile()
                looked = time.monotonic()
            self._send(sending)
        self._wire.wait_for_confirms()

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def _send(self, sending: Sending) -> None:
        hostile = sending.hostile
        if hostile is not None and hostile.refusable:
            if self._refuses(sending.message, hostile.name):
                self._send(next(self._spares))
                return
        else:
            self._wire.publish(sending.message)
            self._wire.wait_for_confirms(WINDOW)
        if hostile is not None:
            self._result.hostile += 1
            self._result.unreadable += hostile.fate is Fate.REJECTED
            self._result.silent += hostile.fate is Fate.SILENT

    def _refuses(self, message: Message, name: str) -> bool:
        """Send it while nothing else is on the way; whether the broker refuses it, which is noted."""
        if name not in self._taken and self._tried[name] >= TRIES:
            return True
        self._wire.wait_for_confirms()
        try:
            self._wire.publish(message)
            self._wire.wait_for_confirms()
        except Refused as refusal:
            self._result.refused[name] = str(refusal)
            self._tried[name] += 1
            self._wire.close()
            self._wire = Wire(self._url)
            return True
        self._taken.add(name)
        return False
