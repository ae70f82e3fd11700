"""The listener: turns the events of workers into starts and ends of runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import structlog

from swh_sched_runner.backend.dispatch import Dispatch
from swh_sched_runner.backend.runs import Recorded, RunChange
from swh_sched_runner.broker.consumer import EventConsumer
from swh_sched_runner.broker.events import Event, TaskEvent, Unreadable, parse
from swh_sched_runner.config import ListenerSettings
from swh_sched_runner.exc import InvalidArgument, StatementRefused
from swh_sched_runner.services.fold import fold
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Pulse

log = structlog.get_logger(__name__)


class Listener:
    """Receives events, folds them per run, records them, and acknowledges after the commit."""

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

    def run_once(self, pulse: Pulse) -> bool:
        """Receive a batch of messages, record what they say, acknowledge them."""
        deliveries = self._consumer.receive(self._batch_size, self._flush_seconds)
        pulse.beat()
        if not deliveries:
            return False
        started = time.monotonic()
        parsed = [event for delivery in deliveries for event in parse(delivery.body)]
        changes = fold(event for event in parsed if isinstance(event, TaskEvent))
        unreadable = [(event.reason, event.body) for event in parsed if isinstance(event, Unreadable)]
        recorded = self._record(changes, unreadable)
        self._count(parsed, recorded, len(unreadable))
        self._consumer.acknowledge(deliveries)
        log.info(
            "events recorded",
            events=len(parsed),
            runs=len(recorded.known),
            **dict(sorted(recorded.ended.items())),
            foreign=len(changes) - len(recorded.known),
            set_aside=len(unreadable),
            ms=round(1000 * (time.monotonic() - started)),
        )
        pulse.beat(f"recorded {len(parsed)} events")
        return True

    def rest(self, pulse: Pulse) -> None:
        """Nothing to wait for: receiving waits itself."""

    def close(self) -> None:
        """Close the consumer; what it has not acknowledged is delivered again."""
        self._consumer.close()

    def _count(self, parsed: Sequence[Event | Unreadable], recorded: Recorded, set_aside: int) -> None:
        for kind, n in Counter(map(type, parsed)).items():
            self._instruments.events(_name(kind), n)
        for status, n in recorded.ended.items():
            self._instruments.runs_ended(status, n)
        self._instruments.set_aside(set_aside)

    def _record(self, changes: Sequence[RunChange], unreadable: list[tuple[str, bytes]]) -> Recorded:
        """Record all changes; what PostgreSQL refuses is narrowed down by halves and set aside with its reason."""
        try:
            return self._dispatch.record_events(changes, unreadable)
        except (StatementRefused, InvalidArgument) as error:
            if len(changes) <= 1:
                unreadable += [(str(error), msgspec.json.encode(change)) for change in changes]
                log.error("event set aside", reason=str(error), run=[change.backend_id for change in changes])
                return self._dispatch.record_events([], unreadable)
            middle = len(changes) // 2
            first = self._record(changes[:middle], unreadable)
            second = self._record(changes[middle:], [])
            return Recorded(first.known | second.known, Counter(first.ended) + second.ended)


def _name(kind: type[Event | Unreadable]) -> str:
    """Celery's name of a type of events. All that we have no use for have one: anybody may make up more of them."""
    tag = kind.__struct_config__.tag
    return tag if isinstance(tag, str) else kind.__name__.lower()
