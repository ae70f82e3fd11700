"""The listener: turns the events of workers into starts and ends of runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import attrs
import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.events import Event, TaskEvent, Unreadable, parse
from swh_sched_runner.broker.interface import Delivery, EventConsumer
from swh_sched_runner.config import ListenerSettings
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.listener.merge import fold
from swh_sched_runner.services.listener.recording import Recording
from swh_sched_runner.services.listener.rejected import RejectedEvents
from swh_sched_runner.services.listener.retry_buffer import RetryBuffer
from swh_sched_runner.services.listener.signs import signs_of
from swh_sched_runner.services.service import Heartbeat

# How often a listener that is idle compares heartbeats with the starts that came.
COMPARE_SECONDS = 5.0

log = structlog.get_logger(__name__)


@attrs.define(slots=True, frozen=True)
class Message:
    """A message that was read: its events, and those of tasks among them by run."""

    delivery: Delivery
    events: list[Event | Unreadable]
    runs: set[str]

    @classmethod
    def read(cls, delivery: Delivery) -> Message:
        """What a delivery says. Never raises."""
        events = parse(delivery.body, delivery.size)
        return cls(delivery, events, {event.uuid for event in events if isinstance(event, TaskEvent)})

    def events_of(self, runs: Iterable[str]) -> list[TaskEvent]:
        """What is told of these runs."""
        return [event for event in self.events if isinstance(event, TaskEvent) and event.uuid in runs]


class Listener:
    """Receives events, folds them per run, records them, and acknowledges after the commit.

    What the database refuses though its data is right is kept in hand, up to half the prefetch, and tried again. More
    than that ends the service, so that all of it comes again.
    """

    name = "listener"

    def __init__(
        self,
        dispatch: Dispatch,
        open_consumer: Callable[[], EventConsumer],
        settings: ListenerSettings,
        instruments: Instruments | None = None,
    ) -> None:
        self._dispatch = dispatch
        self._consumer = open_consumer()
        self._batch_size = settings.batch_size
        self._flush_seconds = settings.flush_seconds
        self._instruments = instruments or Instruments()
        self._next_comparison = time.monotonic() + COMPARE_SECONDS
        self._held = RetryBuffer(settings.prefetch // 2)
        self._rejected = RejectedEvents(dispatch, settings, self._instruments)

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """Receive a batch of messages, record what they say, acknowledge them."""
        deliveries = self._consumer.receive(self._batch_size, self._flush_seconds)
        heartbeat.beat()
        self._rejected.trim()
        again = self._held.due()
        if not deliveries and not again:
            self._compare_at_rest()
            return False
        started = time.monotonic()
        messages = self._read(deliveries)
        recording = self._record(messages, again)
        done = self._held.tried(recording.waiting) if again else []
        done += self._keep(messages, recording)
        self._consumer.acknowledge(done)
        self._tell(messages, recording, started)
        heartbeat.trouble = self._held.reason if self._held else None
        heartbeat.beat(f"recorded {sum(len(message.events) for message in messages)} events")
        return True

    def _compare_at_rest(self) -> None:
        """Nothing is left to record: what heartbeats counted can be compared."""
        if time.monotonic() >= self._next_comparison:
            self._next_comparison = time.monotonic() + COMPARE_SECONDS
            self._dispatch.compare_at_rest()

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Nothing to wait for: receiving waits itself."""

    def close(self) -> None:
        """Close the consumer; what it has not acknowledged is delivered again."""
        self._instruments.held(0)
        self._consumer.close()

    def _read(self, deliveries: Sequence[Delivery]) -> list[Message]:
        messages = []
        for delivery in deliveries:
            messages.append(Message.read(delivery))
            self._consumer.keep_alive()
        return messages

    def _record(self, messages: Sequence[Message], again: Sequence[TaskEvent]) -> Recording:
        """Record what the messages say of runs that don't wait already, and what is to be tried again."""
        events = list(again)
        for message in messages:
            events += message.events_of(message.runs.difference(self._held.runs))
        unreadable = [
            (event.reason, event.body)
            for message in messages
            for event in message.events
            if isinstance(event, Unreadable)
        ]
        signs = signs_of([*again, *(event for message in messages for event in message.events)])
        recording = Recording(self._dispatch, self._consumer.keep_alive, signs)
        recording.run(fold(events), unreadable)
        return recording

    def _keep(self, messages: Sequence[Message], recording: Recording) -> list[Delivery]:
        """Keep in hand the messages of which something has to wait; answers the others."""
        waiting = {*self._held.runs, *recording.waiting}
        done = []
        for message in messages:
            left = message.runs & waiting
            if not left:
                done.append(message.delivery)
                continue
            reason = next((recording.waiting[run] for run in left if run in recording.waiting), self._held.reason or "")
            self._held.add(message.delivery, left, message.events_of(left), reason)
        return done

    def _tell(self, messages: Sequence[Message], recording: Recording, started: float) -> None:
        """Count and log what is committed."""
        kinds = Counter(type(event) for message in messages for event in message.events)
        for kind, n in kinds.items():
            self._instruments.events(_name(kind), n)
        for status, n in recording.ended.items():
            self._instruments.runs_ended(status, n)
        self._rejected.added(recording.rejected)
        self._instruments.held(len(self._held))
        if recording.waiting:
            log.warning(
                "events kept in hand, the database refuses them for now",
                messages=len(self._held),
                runs=len(recording.waiting),
                reason=self._held.reason,
                seconds=self._held.seconds,
            )
        log.info(
            "events recorded",
            events=kinds.total(),
            runs=len(recording.known),
            **dict(sorted(recording.ended.items())),
            foreign=recording.foreign,
            rejected=len(recording.rejected),
            ms=round(1000 * (time.monotonic() - started)),
        )


def _name(kind: type[Event | Unreadable]) -> str:
    """Celery's name of a type of events. All that we have no use for have one: anybody may make up more of them."""
    tag = kind.__struct_config__.tag
    return tag if isinstance(tag, str) else kind.__name__.lower()
