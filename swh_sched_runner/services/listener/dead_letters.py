"""What fell out of the event queue: good events are applied all the same, the others are rejected with the reason."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import attrs
import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.backend.tasks.lost import Marks
from swh_sched_runner.broker.celery.events import Mark, TaskEvent, Unreadable, WorkerEvent, parse
from swh_sched_runner.broker.interface import DeadLetters, Delivery
from swh_sched_runner.config import ListenerSettings
from swh_sched_runner.exc import DatabaseUnavailable, DepthUnreadable, StatementRefused
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.listener.merge import fold
from swh_sched_runner.services.listener.recording import Recording
from swh_sched_runner.services.listener.rejected import RejectedEvents
from swh_sched_runner.services.listener.signs import signs_of
from swh_sched_runner.services.service import Heartbeat

log = structlog.get_logger(__name__)

# Why RabbitMQ moves a message to a dead-letter queue. Only the first says nothing against the message.
TOO_LONG = "maxlen"
REASONS = frozenset({TOO_LONG, "delivery_limit", "expired", "rejected"})
OTHER = "other"
PREFETCH = 100
WAIT_SECONDS = 1.0
LOOK_SECONDS = 5.0  # at how many messages wait
# After a batch it rests so many times as long as the batch took: the main queue comes first.
REST_SHARE = 4
FIRST_AGAIN_SECONDS = 1.0
LAST_AGAIN_SECONDS = 30.0


@attrs.define(slots=True, frozen=True)
class Letter:
    """A message of the dead-letter queue: why it fell out, its events, and what of it is rejected.

    Or a ``mark`` that was put there: it did not fall out of anything.
    """

    delivery: Delivery
    reason: str | None
    events: list[TaskEvent]
    rejected: list[Rejection]
    worker_events: list[WorkerEvent] = attrs.field(factory=list)
    mark: Mark | None = None

    @classmethod
    def read(cls, delivery: Delivery) -> Letter:
        """What a delivery says. Never raises."""
        properties = delivery.properties()
        reason = properties.get("first_death_reason")
        if reason is None:
            match parse(delivery.body, delivery.size):
                case [Mark(dead_letters=True) as mark]:
                    return cls(delivery, None, [], [], mark=mark)
        if reason != TOO_LONG:
            said = "it was put there without a reason" if reason is None else f"it was dead-lettered: {reason}"
            return cls(delivery, reason, [], [Rejection(said, delivery.body, delivery.size, properties)])
        read = parse(delivery.body, delivery.size)
        return cls(
            delivery,
            reason,
            [event for event in read if isinstance(event, TaskEvent)],
            [
                Rejection(event.reason, event.body, event.size, properties)
                for event in read
                if isinstance(event, Unreadable)
            ],
            [event for event in read if isinstance(event, WorkerEvent)],
        )


class DeadLetterReader:
    """Records dead letters beside the listener, slowly, on connections of its own.

    They are acknowledged after the commit. What can't be recorded for now stays in hand and is tried again, without
    going back to the queue, where each delivery counts.
    """

    name = "dead-letters"

    def __init__(
        self,
        dispatch: Dispatch,
        open_dead_letters: Callable[[], DeadLetters],
        settings: ListenerSettings,
        instruments: Instruments | None = None,
    ) -> None:
        self._dispatch = dispatch
        self._queue = open_dead_letters()
        self._instruments = instruments or Instruments()
        self._rejected = RejectedEvents(dispatch, settings, self._instruments)
        self._in_hand: list[Letter] = []
        for reason in (*REASONS, OTHER):
            self._instruments.dead_letters(reason, 0)  # from 0 on: an increase needs to see the first one come
        self._again_seconds = FIRST_AGAIN_SECONDS
        self._next_try = self._next_look = 0.0

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """Record what has arrived, when the last batch has been rested from."""
        rest = self._next_try - time.monotonic()
        seconds = min(WAIT_SECONDS, max(0.0, rest)) if self._in_hand else WAIT_SECONDS
        arrived = [Letter.read(delivery) for delivery in self._queue.receive(seconds)]
        self._count(arrived)
        self._in_hand += arrived
        self._rejected.trim()
        heartbeat.beat()
        if self._in_hand and time.monotonic() >= self._next_try:
            self._try(heartbeat)
        return True  # receiving waits itself

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Nothing to wait for: receiving waits itself."""

    def close(self) -> None:
        """Close the connection; what is in hand is delivered again."""
        self._queue.close()

    def _try(self, heartbeat: Heartbeat) -> None:
        started = time.monotonic()
        try:
            heartbeat.trouble = self._record()
        except (DatabaseUnavailable, StatementRefused) as error:
            heartbeat.trouble = str(error)
        took = time.monotonic() - started
        if heartbeat.trouble is None:
            self._again_seconds = FIRST_AGAIN_SECONDS
            self._next_try = time.monotonic() + REST_SHARE * took
        else:
            self._next_try = time.monotonic() + self._again_seconds
            self._again_seconds = min(2 * self._again_seconds, LAST_AGAIN_SECONDS)
        heartbeat.beat(f"{len(self._in_hand)} dead letters in hand")

    def _record(self) -> str | None:
        """Record and acknowledge what is in hand; answers why some of it has to wait."""
        events = [event for letter in self._in_hand for event in letter.events]
        unreadable = [one for letter in self._in_hand for one in letter.rejected]
        told = (event for letter in self._in_hand for event in letter.worker_events)
        recording = Recording(self._dispatch, signs_of([*events, *told]), self._marks())
        recording.run(fold(events), unreadable, events)
        marks = sum(letter.mark is not None for letter in self._in_hand)
        only_marks = marks == len(self._in_hand)
        done, kept = [], []
        for letter in self._in_hand:
            if any(event.uuid in recording.waiting for event in letter.events):
                kept.append(attrs.evolve(letter, rejected=[]))  # that much of it is committed
            else:
                done.append(letter.delivery)
        self._queue.acknowledge(done)
        self._in_hand = kept
        if not only_marks:
            self._tell(recording, len(done) - marks)
        return next(iter(recording.waiting.values()), None)

    def _marks(self) -> Marks | None:
        """All before them is in hand: what had to wait is tried again each time."""
        ids = frozenset(str(letter.mark.id) for letter in self._in_hand if letter.mark is not None)
        return Marks(ids, dead_letters=True) if ids and self._queue.in_order else None

    def _tell(self, recording: Recording, messages: int) -> None:
        self._rejected.added(recording.rejected)
        for status, n in recording.ended.items():
            self._instruments.runs_ended(status, n)
        runs, rejected = len(recording.known), len(recording.rejected)
        log.warning("dead letters recorded", messages=messages, runs=runs, rejected=rejected)

    def _count(self, arrived: Sequence[Letter]) -> None:
        fallen = (letter for letter in arrived if letter.mark is None)
        reasons = Counter(letter.reason if letter.reason in REASONS else OTHER for letter in fallen)
        for reason, n in reasons.items():
            self._instruments.dead_letters(str(reason), n)
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        try:
            lengths = self._queue.lengths()
        except DepthUnreadable:
            return  # the next look may succeed, and the runner tells of broken rights
        for queue, messages in lengths.items():
            self._instruments.event_queue(queue, messages)
