"""The listener: records starts and ends of runs from the events of workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.events import Event, TaskEvent, Unreadable
from swh_sched_runner.broker.interface import Delivery, EventConsumer, bytes_of
from swh_sched_runner.config import ListenerSettings
from swh_sched_runner.exc import SchedulerException
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.listener.lock import ActiveLock
from swh_sched_runner.services.listener.merge import Batch, Message
from swh_sched_runner.services.listener.recording import Recording, Writer, Written
from swh_sched_runner.services.listener.rejected import RejectedEvents
from swh_sched_runner.services.listener.retry_buffer import RetryBuffer
from swh_sched_runner.services.service import Heartbeat, debugging

# How often a listener that is idle compares heartbeats with the starts that came.
COMPARE_SECONDS = 5.0

log = structlog.get_logger(__name__)

# A listener without work gives signs of life this often; one that stands by tries the lock.
IDLE_SECONDS = 0.5
# While a batch is written the connection to the broker is looked after this often.
KEEP_SECONDS = 0.2
# Messages may hold lists: no batch has more events, but for the rest of a message. They take ten times their bytes in
# memory, so that few bytes are read before they are counted.
MOST_EVENTS = 10_000
RECEIVED_BYTES = 524_288
# The table of rejected events is bounded, in age as well: without any event it is looked at this often.
TRIM_SECONDS = 60.0


class Listener:
    """Receives events, folds them per run, records them, and acknowledges after the commit.

    Two threads: the one of the service owns the connection to the broker, reads, decodes and folds, acknowledges, and
    keeps what has to wait; the ``Writer``'s owns what is written. A batch is with one or the other. While one is
    written the next is received, and no third one is begun: so many messages are in hand at most. Batches are written,
    and so committed, in the order of delivery.

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
        self._consumer = open_consumer()
        self._settings = settings
        self._instruments = instruments or Instruments()
        self._next_comparison = time.monotonic() + COMPARE_SECONDS
        self._held = RetryBuffer(settings.prefetch // 2)
        self._lock = ActiveLock(dispatch, self._consumer)
        self._writer = Writer(dispatch, RejectedEvents(dispatch, settings, self._instruments))
        self._stands_by: bool | None = None
        self._next_trim = 0.0
        # Whether a batch was written: until then each one is waited for, so that a service that starts anew, since the
        # database took nothing, counts as started only when it takes something again.
        self._proven = False

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """Receive a batch and hand it over once the one before is written; or see to that one."""
        heartbeat.beat()
        if not self._may_work(heartbeat):
            return False
        messages = self._receive(heartbeat)
        batch = Batch.of(messages, lock=self._lock.held) if messages else None  # while the batch before is written
        finished = self._finish(heartbeat)
        again = self._held.due()
        if batch is not None and (again or self._held):
            batch = Batch.of(messages, self._held.runs, again)
        elif again:
            batch = Batch.of([], (), again)
        elif batch is None and time.monotonic() >= min(self._next_trim, self._next_comparison):
            batch = Batch([], [], [], compares=not self._held)
            self._next_comparison = time.monotonic() + COMPARE_SECONDS
        if batch is not None:
            self._next_trim = time.monotonic() + TRIM_SECONDS
            self._writer.write(batch)
        if not self._proven and (messages or again):
            self._finish(heartbeat)
        return finished or bool(messages or again)

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Wait for a message, or for what is to be tried again."""
        if self._stands_by and not self._consumer.alone:
            heartbeat.wait(IDLE_SECONDS)
        elif not self._writer.busy:
            self._consumer.wait(IDLE_SECONDS)

    def close(self) -> None:
        """Finish what is being written, and close the consumer; what it has not acknowledged is delivered again."""
        try:
            self._writer.close()
            with suppress(SchedulerException):
                if (written := self._writer.finished(0)) is not None:
                    self._acknowledge(written)
        finally:
            self._instruments.held(0)
            self._consumer.close()
            self._lock.close()

    def _may_work(self, heartbeat: Heartbeat) -> bool:
        """Whether this is the listener that works; tells it when that has changed."""
        stands_by = not self._lock.is_mine() or self._consumer.standing_by
        if stands_by != self._stands_by:
            if stands_by:
                log.info("standing by, another listener works", queue=self._consumer.queue)
            elif self._stands_by:
                log.info("taking over, the other listener has ended", queue=self._consumer.queue)
            self._stands_by = stands_by
            heartbeat.beat("stands by, another listener works" if stands_by else "listening")
        heartbeat.standing_by = stands_by
        # On RabbitMQ it is the first message that tells: the consumer waits for it.
        return self._consumer.alone or not stands_by

    def _receive(self, heartbeat: Heartbeat) -> list[Message]:
        """A batch: as large as the settings let it, or as old; and older while there is another to be written."""
        settings, size, events = self._settings, 0, 0
        messages: list[Message] = []
        # What failed before comes again soon; until then nothing shows that the trouble is over.
        in_trouble = not self._proven and heartbeat.trouble is not None
        if not self._consumer.wait(IDLE_SECONDS if in_trouble else settings.flush_seconds):
            return messages
        while len(messages) < settings.batch_size and size < settings.batch_bytes and events < MOST_EVENTS:
            deliveries = self._consumer.receive(
                settings.batch_size - len(messages),
                settings.flush_seconds,
                min(settings.batch_bytes - size, RECEIVED_BYTES),
            )
            size += bytes_of(deliveries)
            in_order = self._consumer.in_order
            for delivery in deliveries:
                messages.append(Message.read(delivery, in_order=in_order))
                events += len(messages[-1].events)
                self._consumer.keep_alive()
            if not self._writer.busy or self._writer.is_done:
                break
        return messages

    def _finish(self, heartbeat: Heartbeat) -> bool:
        """Wait until the batch before is written, and acknowledge it; False if there is none.

        Without signs of life: a writer that is stuck is a service that is stuck.
        """
        while self._writer.busy:
            written = self._writer.finished(KEEP_SECONDS)
            self._consumer.keep_alive()
            if written is not None:
                self._acknowledge(written)
                heartbeat.trouble = self._held.reason if self._held else None
                if written.batch.messages:
                    self._proven = True
                    told = sum(len(message.events) for message in written.batch.messages)
                    heartbeat.beat(f"recorded {told} events")
                return True
        return False

    def _acknowledge(self, written: Written) -> None:
        """The batch is committed: acknowledge what has not to wait."""
        batch, recording = written.batch, written.recording
        done = self._held.tried(recording.waiting) if batch.tries_again else []
        done += self._keep(batch.messages, recording)
        if done:
            self._consumer.acknowledge(done)
        if recording.rejected:
            self._next_trim = 0.0
        if batch.messages or batch.tries_again:
            self._tell(batch.messages, recording, written.seconds)

    def _keep(self, messages: Sequence[Message], recording: Recording) -> list[Delivery]:
        """Keep in hand the messages of which something has to wait; answers the others."""
        waiting = {*self._held.runs, *recording.waiting}
        if not waiting:
            return [message.delivery for message in messages]
        done = []
        for message in messages:
            left = message.runs & waiting
            if not left:
                done.append(message.delivery)
                continue
            reason = next((recording.waiting[run] for run in left if run in recording.waiting), self._held.reason or "")
            self._held.add(message.delivery, left, message.events_of(left), reason)
        return done

    def _explain(self, messages: Sequence[Message], recording: Recording) -> None:
        """What each message said, and what became of it."""
        for message in messages:
            for event in message.events:
                if isinstance(event, TaskEvent):
                    run = event.uuid
                    fate = "waits" if run in recording.waiting else "recorded" if run in recording.known else "foreign"
                    log.debug("event of a run", kind=_name(type(event)), run=run, worker=event.hostname, fate=fate)
        for rejection in recording.rejected:
            log.debug("event rejected", reason=rejection.reason, bytes=rejection.size)

    def _tell(self, messages: Sequence[Message], recording: Recording, seconds: float) -> None:
        """Count and log what is committed."""
        kinds = Counter(type(event) for message in messages for event in message.events)
        for kind, n in kinds.items():
            self._instruments.events(_name(kind), n)
        for status, n in recording.ended.items():
            self._instruments.runs_ended(status, n)
        self._instruments.held(len(self._held))
        told = [event.timestamp for message in messages for event in message.events if isinstance(event, TaskEvent)]
        if told:
            self._instruments.event_lag(time.time() - min(told))
        if recording.waiting:
            log.warning(
                "events await retry, the database refuses them for now",
                messages=len(self._held),
                runs=len(recording.waiting),
                reason=self._held.reason,
                seconds=self._held.seconds,
            )
        if debugging(__name__):
            self._explain(messages, recording)
        log.info(
            "events recorded",
            events=kinds.total(),
            runs=len(recording.known),
            **dict(sorted(recording.ended.items())),
            foreign=recording.foreign,
            rejected=len(recording.rejected),
            ms=round(1000 * seconds),
        )


def _name(kind: type[Event | Unreadable]) -> str:
    """Celery's name of a type of events. All that we have no use for have one: anybody may make up more of them."""
    tag = kind.__struct_config__.tag
    return tag if isinstance(tag, str) else kind.__name__.lower()
