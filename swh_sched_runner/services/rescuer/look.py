"""Whether anybody has the message of a run: the look of rule 3 of docs/explanation/lost-runs.md.

A message is ready in its queue, or in the hands of a worker, or nowhere. Nobody has it if the queue is empty twice,
some seconds apart, and every worker that consumes from it says meanwhile that it doesn't know the run. A queue that is
never empty is read instead. The order of steps is that of docs/spec/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import attrs

from swh_sched_runner.backend.workers.watched import WatchedLife
from swh_sched_runner.broker.interface import QueueInfo
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.exc import DepthUnreadable
from swh_sched_runner.services.rescuer.ask import AskWorkers, ask_in_parts
from swh_sched_runner.services.service import Heartbeat

# So many ready messages are read at most.
MOST_READY = 100_000
# How often to look whether a queue has become empty.
DRAIN_LOOK_SECONDS = 0.5


class HeldQueue(Protocol):
    """A queue that nobody else publishes to, or reads in this way, until ``release``."""

    def ready_ids(self, most: int) -> frozenset[str] | None:
        """The ids of all its ready messages, which stay; None for more than ``most``, or if it can't be read."""

    def release(self) -> None:
        """Let others publish. Never raises."""


class HoldQueue(Protocol):
    """Takes the lease of a queue, or says why it can't."""

    def __call__(self, queue: str, heartbeat: Heartbeat) -> HeldQueue | str:
        """Raises ``BrokerUnavailable``, ``SessionLost``."""


@attrs.define(slots=True, frozen=True)
class Target:
    """A run whose message is searched. ``own`` is the life that began it, if that is not over.

    With ``own_counts_not`` what that life answers doesn't matter: that it executes the run is known.
    """

    backend_id: str
    queue: str
    own: WatchedLife | None = None
    own_counts_not: bool = False


@attrs.define(slots=True)
class Looked:
    """What a look found.

    ``gone`` has the evidence that nobody has the message, by run; ``held`` says where it is, ``undecided`` why that
    can't be told. ``consumers`` are the lives that may have consumed from a queue, by queue. Those of ``miscounted``
    queues were not as many as the broker says.
    """

    gone: dict[str, dict[str, object]] = attrs.field(factory=dict)
    held: dict[str, str] = attrs.field(factory=dict)
    undecided: dict[str, str] = attrs.field(factory=dict)
    consumers: dict[str, list[WatchedLife]] = attrs.field(factory=dict)
    miscounted: set[str] = attrs.field(factory=set)


@attrs.define(slots=True)
class _Queue:
    """A queue under the look: the runs that are searched, the lives that consume from it, what was seen."""

    name: str
    wanted: list[Target]
    lives: list[WatchedLife]
    unknown: list[WatchedLife]  # lives that have not said what they consume from
    first: QueueInfo | None = None
    second: QueueInfo | None = None
    ready: frozenset[str] | None = None  # ids that were read; None where the queue was empty
    undecided: str | None = None
    answers: dict[str, set[str]] = attrs.field(factory=dict)

    @property
    def hostnames(self) -> set[str]:
        own = {wanted.own.hostname for wanted in self.wanted if wanted.own is not None}
        return own | {life.hostname for life in self.lives}


class Look:
    """Looks for the messages of runs in their queues, and asks the workers that consume from those."""

    def __init__(
        self, info: Callable[[str], QueueInfo], ask: AskWorkers, hold: HoldQueue, settings: RescuerSettings
    ) -> None:
        self._info = info
        self._ask = ask
        self._hold = hold
        self._settings = settings

    def run(self, wanted: Iterable[Target], lives: Iterable[WatchedLife], heartbeat: Heartbeat) -> Looked:
        """Look for these runs. ``lives`` are those that are not over. Raises ``BrokerUnavailable``."""
        by_queue: dict[str, list[Target]] = {}
        for one in wanted:
            by_queue.setdefault(one.queue, []).append(one)
        living = list(lives)
        queues = [_prepare(name, runs, living) for name, runs in by_queue.items()]
        empty = [queue for queue in queues if self._is_empty(queue, "first", heartbeat)]
        self._ask_all(empty)
        if empty and not heartbeat.stopping:
            heartbeat.wait(self._settings.between_looks_seconds)
        empty = [queue for queue in empty if self._is_empty(queue, "second", heartbeat)]
        looked = Looked()
        for queue in queues:
            if queue.undecided is None and queue not in empty:
                self._look_under_lease(queue, heartbeat)
            _decide(queue, looked)
        if heartbeat.stopping:
            return Looked(undecided={one.backend_id: "the rescuer is stopping" for one in wanted})
        return looked

    def _is_empty(self, queue: _Queue, which: str, heartbeat: Heartbeat) -> bool:
        """Look at a queue while nobody else holds its messages; False also if that is not possible."""
        try:
            info = self._info(queue.name)
            if not info.exists:  # nobody holds messages of a queue that is not there
                setattr(queue, which, info)
                return True
            if info.depth or info.consumers is None:
                return False
            held = self._hold(queue.name, heartbeat)
            if isinstance(held, str):
                queue.undecided = held
                return False
            try:
                info = self._info(queue.name)
            finally:
                held.release()
        except DepthUnreadable as error:
            queue.undecided = str(error)
            return False
        setattr(queue, which, info)
        return info.depth == 0

    def _look_under_lease(self, queue: _Queue, heartbeat: Heartbeat) -> None:
        """Look at a queue that is not empty, or whose broker shows no consumers and so not what they hold."""
        held = self._hold(queue.name, heartbeat)
        if isinstance(held, str):
            queue.undecided = held
            return
        try:
            if not self._drains(queue, heartbeat):
                self._read(queue, held, heartbeat)
        except DepthUnreadable as error:
            queue.undecided = str(error)
        finally:
            held.release()

    def _drains(self, queue: _Queue, heartbeat: Heartbeat) -> bool:
        """Whether it becomes empty now that nobody publishes to it, and is empty once more."""
        left = self._settings.drain_seconds
        queue.first = self._info(queue.name)
        if queue.first.consumers is None:
            return False
        while queue.first.depth and left > 0 and not heartbeat.wait(min(left, DRAIN_LOOK_SECONDS)):
            left -= DRAIN_LOOK_SECONDS
            queue.first = self._info(queue.name)
        if queue.first.depth:
            return False
        self._ask_all([queue])
        heartbeat.wait(self._settings.between_looks_seconds)
        queue.second = self._info(queue.name)
        return queue.second.depth == 0

    def _read(self, queue: _Queue, held: HeldQueue, heartbeat: Heartbeat) -> None:
        """Read all ready messages, ask, and read once more: the consumers are as many before as after."""
        queue.first = self._info(queue.name)
        before = held.ready_ids(MOST_READY)
        heartbeat.beat()
        self._ask_all([queue])
        heartbeat.beat()
        after = held.ready_ids(MOST_READY)
        queue.second = self._info(queue.name)
        if before is None or after is None:
            queue.undecided = f"{queue.name} can't be read: it has too many ready messages, or counts deliveries"
        else:
            queue.ready = before | after

    def _ask_all(self, queues: Iterable[_Queue]) -> None:
        """What the workers say, by hostname; who said once that it has a run has said so."""
        asked = list(queues)
        hostnames = {hostname for queue in asked for hostname in queue.hostnames}
        runs = {one.backend_id for queue in asked for one in queue.wanted}
        answers = ask_in_parts(self._ask, sorted(hostnames), sorted(runs))
        for queue in asked:
            before, queue.answers = queue.answers, {}
            for hostname, has in answers.items():
                queue.answers[hostname] = {*has, *before.get(hostname, ())}


def _prepare(name: str, wanted: list[Target], lives: Sequence[WatchedLife]) -> _Queue:
    consuming = [life for life in lives if life.queues is not None and name in life.queues]
    return _Queue(name, wanted, consuming, [life for life in lives if life.queues is None])


def _decide(queue: _Queue, looked: Looked) -> None:
    looked.consumers[queue.name] = [*queue.lives, *queue.unknown]
    if _miscounted(queue) is not None:
        looked.miscounted.add(queue.name)
    for one in queue.wanted:
        run = one.backend_id
        ignored = one.own.hostname if one.own is not None and one.own_counts_not else None
        holders = (hostname for hostname, has in queue.answers.items() if run in has and hostname != ignored)
        if (holder := next(holders, None)) is not None:
            looked.held[run] = f"{holder} has it"
        elif queue.ready is not None and run in queue.ready:
            looked.held[run] = f"it is ready in {queue.name}"
        elif (reason := _undecided(queue, one, ignored)) is not None:
            looked.undecided[run] = reason
        else:
            looked.gone[run] = _evidence(queue)


def _undecided(queue: _Queue, one: Target, ignored: str | None) -> str | None:
    """Why it can't be told whether somebody has the message of a run."""
    if queue.undecided is not None:
        return queue.undecided
    if queue.unknown:
        return f"{queue.unknown[0].hostname} has not said which queues it consumes from"
    must_answer = [*queue.lives, *([one.own] if one.own is not None else [])]
    missing = (life.hostname for life in must_answer if life.hostname not in queue.answers and life.hostname != ignored)
    if (hostname := next(missing, None)) is not None:
        return f"{hostname} may have the message and does not answer"
    return _miscounted(queue)


def _miscounted(queue: _Queue) -> str | None:
    """How many consumers the broker counted, if they are not as many as are known."""
    for info in (queue.first, queue.second):
        if info is not None and info.consumers is not None and info.consumers != len(queue.lives):
            return (
                f"{queue.name} has {info.consumers} consumers, and {len(queue.lives)} workers that consume it are known"
            )
    return None


def _evidence(queue: _Queue) -> dict[str, object]:
    return {
        "queue": queue.name,
        "queue_exists": queue.second is not None and queue.second.exists,
        "ready": 0 if queue.ready is None else len(queue.ready),
        "answered": sorted(life.hostname for life in queue.lives),
    }
