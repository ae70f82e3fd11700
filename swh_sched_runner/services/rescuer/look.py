"""Whether anybody has the message of a run: the look of rule 3 of docs/explanation/lost-runs.md.

A message is ready in its queue, or in the hands of a worker, or nowhere. A queue that is empty twice, ten seconds
apart, and every worker that consumes from it saying meanwhile that it doesn't know the run: then nobody has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

import attrs

from swh_sched_runner.backend.workers.lives import Life
from swh_sched_runner.broker.interface import QueueInfo
from swh_sched_runner.exc import DepthUnreadable
from swh_sched_runner.services.service import Heartbeat

# A message that is on its way between the broker and a worker is in neither of them for a moment.
BETWEEN_LOOKS_SECONDS = 10.0


class AskWorkers(Protocol):
    """Asks workers which of some runs they know: of each hostname that answered, those that it has."""

    def __call__(self, hostnames: Sequence[str], backend_ids: Sequence[str]) -> Mapping[str, Collection[str]]:
        """Raises ``BrokerUnavailable``."""


@attrs.define(slots=True)
class Looked:
    """What a look found.

    ``gone`` has the evidence that nobody has the message, by run; ``held`` where it is; ``undecided`` why that can't be
    told. ``asked`` are the lives that answered, by queue.
    """

    gone: dict[str, dict[str, object]] = attrs.field(factory=dict)
    held: dict[str, str] = attrs.field(factory=dict)
    undecided: dict[str, str] = attrs.field(factory=dict)
    asked: dict[str, list[Life]] = attrs.field(factory=dict)


@attrs.define(slots=True)
class _Queue:
    """A queue under the look: the runs that are searched, the lives that consume from it, what was seen."""

    name: str
    runs: frozenset[str]
    lives: list[Life]
    unknown: list[Life]  # lives that have not said what they consume from
    first: QueueInfo | None = None
    second: QueueInfo | None = None
    ready: frozenset[str] | None = None  # ids of an inventory; None where the queue was empty
    undecided: str | None = None


class Look:
    """Looks for the messages of runs in their queues, and asks the workers that consume from those."""

    def __init__(
        self,
        info: Callable[[str], QueueInfo],
        ask: AskWorkers,
        inventory: Callable[[str, Heartbeat], frozenset[str] | str],
        between_looks_seconds: float = BETWEEN_LOOKS_SECONDS,
    ) -> None:
        """``inventory`` answers the ids of all ready messages of a queue that is never empty, or why it can't."""
        self._info = info
        self._ask = ask
        self._inventory = inventory
        self._between_looks_seconds = between_looks_seconds

    def run(self, wanted: Mapping[str, Collection[str]], lives: Iterable[Life], heartbeat: Heartbeat) -> Looked:
        """Look for runs by queue. ``lives`` are those that are not over. Raises ``BrokerUnavailable``."""
        living = list(lives)
        queues = [self._prepare(name, frozenset(runs), living) for name, runs in wanted.items()]
        self._see(queues, "first")
        answers = self._answers(queues)
        if heartbeat.wait(self._between_looks_seconds):
            return Looked(undecided={run: "the rescuer is stopping" for queue in queues for run in queue.runs})
        self._see(queues, "second")
        looked = Looked()
        for queue in queues:
            if queue.undecided is None and not _was_empty(queue):
                self._take_inventory(queue, heartbeat)
                answers |= self._answers([queue])
            self._decide(queue, answers, looked)
        return looked

    def _prepare(self, name: str, runs: frozenset[str], lives: Sequence[Life]) -> _Queue:
        consuming = [life for life in lives if life.queues is not None and name in life.queues]
        return _Queue(name, runs, consuming, [life for life in lives if life.queues is None])

    def _see(self, queues: Iterable[_Queue], which: str) -> None:
        for queue in queues:
            try:
                setattr(queue, which, self._info(queue.name))
            except DepthUnreadable as error:
                queue.undecided = str(error)

    def _answers(self, queues: Iterable[_Queue]) -> dict[str, Collection[str]]:
        """What the workers say, by hostname."""
        hostnames = {life.hostname for queue in queues for life in queue.lives}
        runs = {run for queue in queues for run in queue.runs}
        return dict(self._ask(sorted(hostnames), sorted(runs))) if hostnames and runs else {}

    def _take_inventory(self, queue: _Queue, heartbeat: Heartbeat) -> None:
        found = self._inventory(queue.name, heartbeat)
        if isinstance(found, str):
            queue.undecided = found
        else:
            queue.ready = found
            self._see([queue], "second")

    def _decide(self, queue: _Queue, answers: Mapping[str, Collection[str]], looked: Looked) -> None:
        looked.asked[queue.name] = queue.lives
        for run in queue.runs:
            holder = next((life for life in queue.lives if run in answers.get(life.hostname, ())), None)
            if holder is not None:
                looked.held[run] = f"{holder.hostname} has it"
            elif queue.ready is not None and run in queue.ready:
                looked.held[run] = f"it is ready in {queue.name}"
            elif (reason := _undecided(queue, answers)) is not None:
                looked.undecided[run] = reason
            else:
                looked.gone[run] = _evidence(queue)


def _was_empty(queue: _Queue) -> bool:
    return all(info is not None and info.depth == 0 for info in (queue.first, queue.second))


def _undecided(queue: _Queue, answers: Mapping[str, Collection[str]]) -> str | None:
    """Why it can't be told of the runs of a queue whether somebody has their messages."""
    if queue.undecided is not None:
        return queue.undecided
    if queue.unknown:
        return f"{queue.unknown[0].hostname} has not said which queues it consumes from"
    silent = next((life for life in queue.lives if life.hostname not in answers), None)
    if silent is not None:
        return f"{silent.hostname} consumes from {queue.name} and has not answered"
    for info in (queue.first, queue.second):
        assert info is not None
        if info.consumers is not None and info.consumers != len(queue.lives):
            return f"{queue.name} has {info.consumers} consumers, and {len(queue.lives)} workers have answered"
    return None


def _evidence(queue: _Queue) -> dict[str, object]:
    return {
        "queue": queue.name,
        "queue_exists": queue.second is not None and queue.second.exists,
        "ready": "inventory" if queue.ready is not None else 0,
        "answered": [life.hostname for life in queue.lives],
    }
