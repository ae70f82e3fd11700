"""What the program asks of a message broker. Each kind of broker is a package that implements these classes.

``factory`` opens them; tests/broker/ runs one suite against every broker.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import msgspec

from swh_sched_runner.broker.celery.messages import Message

__all__ = [
    "DeadLetters",
    "Delivery",
    "EventConsumer",
    "EventMarker",
    "HeartbeatConsumer",
    "Message",
    "PublishResult",
    "Publisher",
    "QueueInfo",
    "QueueInspector",
]

# No event is longer: a list of 24 with long tracebacks stays far below.
MAX_EVENT_BYTES = 1_000_000
# Of a body that is too long for an event so much is kept, for people.
KEPT_BYTES = 65_536
# Heartbeats of workers are in a queue of their own, so that a backlog of events makes no living worker look dead. None
# is longer; a consumer hands out about so many at a time.
HEARTBEAT_KEY = "worker.heartbeat"
HEARTBEAT_SUFFIX = ".heartbeats"
HEARTBEAT_BYTES = 16_384
MOST_HEARTBEATS = 2_000
# A consumer hands out no more at a time, and one message beyond: what a batch takes in memory follows from it.
BATCH_BYTES = 4_194_304


class PublishResult:
    """What is known of messages that were published together.

    ``confirmed`` are the ids that the broker has for certain; of others nothing is known once it is ``done``.
    ``unsendable`` were not written, since they can never be sent: the reason by id. ``began`` is when the first was
    written, by ``time.monotonic``.
    """

    __slots__ = ("began", "confirmed", "messages", "refused", "returned", "unanswered", "unsendable")

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.began = time.monotonic()
        self.confirmed: set[str] = set()
        self.returned: set[str] = set()
        self.unsendable: dict[str, str] = {}
        self.refused = 0
        self.unanswered = 0

    @property
    def done(self) -> bool:
        """Whether the broker will say nothing more of them."""
        return not self.unanswered

    @property
    def complete(self) -> bool:
        """Whether all of them that can be sent were handed over, and none was refused so far."""
        return self.unanswered + len(self.confirmed) == self.sendable

    @property
    def sendable(self) -> int:
        """How many of the messages can be sent."""
        return self.messages - len(self.unsendable)

    @property
    def progress(self) -> bool:
        """Whether anything became known for certain."""
        return bool(self.confirmed or self.unsendable)

    def give_up(self) -> None:
        """Nothing more is heard of those that are unanswered."""
        self.unanswered = 0


class Publisher(Protocol):
    """The publishing connection of one dispatcher session. For one thread.

    Once it is broken each call raises ``BrokerUnavailable``, unless it says otherwise; open another one then.
    """

    # Whether a lock lasts as long as the connection; else it ends by itself.
    locks_last: bool

    @abstractmethod
    def lock(self, queue: str) -> bool:
        """Become, or stay, the only session that publishes to ``queue``, until ``unlock``; False while another one is.

        Raises ``QueueRefused`` where the broker's rights forbid it.
        """

    @abstractmethod
    def unlock(self, queue: str) -> None:
        """Let others publish to ``queue``. Never raises.

        While messages to it are unconfirmed the connection is given up as well: the lock may not end before they do.
        """

    @abstractmethod
    def depth(self, queue: str) -> int:
        """Ready messages in ``queue``, which is declared where it is missing.

        Counts all that this connection published to it if nothing is unconfirmed. Raises ``QueueRefused`` and
        ``DepthUnreadable``: publish nothing then.
        """

    @abstractmethod
    def publish(
        self,
        queue: str,
        messages: Sequence[Message],
        max_queue_length: int | None,
        check_session: Callable[[], None],
    ) -> PublishResult:
        """Send to a locked queue, without waiting for confirms: those come during the next calls.

        Redis compares with ``max_queue_length`` (None: no limit) as it pushes; RabbitMQ leaves that to the caller.
        ``check_session`` is called before each chunk and ends the sending by raising. A connection that breaks doesn't
        raise here: the messages stay unconfirmed.
        """

    @abstractmethod
    def wait_for_confirms(self, result: PublishResult) -> None:
        """Wait until the broker has said all that it will say of these messages: ``result.done`` then.

        A broker that is silent for too long is given up, and the connection with it; that doesn't raise here.
        """

    @abstractmethod
    def ready_ids(self, queue: str, most: int) -> frozenset[str] | None:
        """The ids of the tasks whose messages are ready in a locked queue; on Redis also of those that workers hold.

        RabbitMQ shows messages only to those that take them: they are taken, and ready again, in their order, when
        this answers. None where that is not told: there are more than ``most``, or the queue gives no messages this
        way, or counts how often it delivers one. A queue that does not exist has none.
        """

    @abstractmethod
    def session_is_gone(self, session_id: int) -> bool:
        """Whether another session's connection can send nothing any more.

        If so, it can't come back before ``release``.
        """

    @abstractmethod
    def connection_is_gone(self, session_id: int) -> bool:
        """The same where it can be seen from outside, without barring a living session; call ``release`` afterwards.

        False on Redis, where connections hold nothing.
        """

    @abstractmethod
    def release(self, session_id: int) -> None:
        """Forget a session that was found gone, when nothing that was its is left."""

    @abstractmethod
    def check(self) -> None:
        """Keep the connection alive; call it every few seconds."""

    @abstractmethod
    def close(self) -> None:
        """End the connection, and all locks. Never raises."""


# A frozen class of attrs takes ten times as long to make, and this is made for each message.
class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An event message: what was kept of its body, the size of the whole body, and the tag that acknowledges it.

    ``properties`` reads what else the broker says of it: texts by name.
    """

    body: bytes
    tag: Any
    size: int
    properties: Callable[[], Mapping[str, str]] = dict

    @classmethod
    def of(cls, body: bytes, tag: Any, max_bytes: int) -> Delivery:
        """A message whose body is at hand: kept whole up to ``max_bytes``, of a longer one the beginning."""
        return cls(body if len(body) <= max_bytes else body[:KEPT_BYTES], tag, len(body))


def bytes_of(deliveries: Iterable[Delivery]) -> int:
    """How many bytes of bodies these hold."""
    return sum(len(delivery.body) for delivery in deliveries)


class EventConsumer(Protocol):
    """Messages with events; each stays unacknowledged until it is acknowledged, else it comes back.

    They come in the order in which they were put into the queue. On RabbitMQ to one of several consumers alone: the
    others stand by, and one of them goes on where it ended. On Redis the caller sees to that. For one thread. After
    ``BrokerUnavailable`` open another one: what was unacknowledged comes again.
    """

    # What the event queue is called in the broker.
    queue: str
    # Whether the broker itself sees to it that only one consumer gets messages.
    alone: bool

    @property
    @abstractmethod
    def in_order(self) -> bool:
        """Whether all that was in the queue before what ``receive`` answered last is acknowledged, or in hand here.

        Not while a former event queue is drained, nor on Redis while another consumer has anything in hand.
        """

    @property
    @abstractmethod
    def standing_by(self) -> bool:
        """Whether another consumer had the queue when this one came, and nothing was delivered to this one since."""

    @abstractmethod
    def recover(self) -> None:
        """Put back what consumers that are gone had in hand; only when no other one is at work.

        RabbitMQ does that by itself. Raises ``BrokerUnavailable``.
        """

    @abstractmethod
    def wait(self, timeout_seconds: float) -> bool:
        """Wait for a message to receive; False if none came in time. Raises ``BrokerUnavailable``."""

    @abstractmethod
    def receive(self, limit: int, timeout_seconds: float, limit_bytes: int = BATCH_BYTES) -> list[Delivery]:
        """Up to ``limit`` messages: as soon as there are so many, or so many bytes, else those that came in time.

        What was read at once may go beyond the bytes. A message may hold several events. Call it every few seconds, it
        keeps the connection alive as well. More than the prefetch is never unacknowledged. Raises
        ``BrokerUnavailable``.
        """

    @abstractmethod
    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Remove these from the queue; what was received before them and isn't among them stays unacknowledged."""

    @abstractmethod
    def keep_alive(self) -> None:
        """Keep the connection, and what is unacknowledged, while nothing is received; at least every second.

        Raises ``BrokerUnavailable``.
        """

    @abstractmethod
    def close(self) -> None:
        """End the connection. Never raises. What is unacknowledged goes back to the queue."""


class DeadLetters(Protocol):
    """Messages that fell out of the event queue; each stays in the broker until it is acknowledged.

    For one thread. After ``BrokerUnavailable`` open another one.
    """

    @property
    @abstractmethod
    def in_order(self) -> bool:
        """Whether all that was in the queue before what ``receive`` answered is acknowledged, or in hand here."""

    @abstractmethod
    def receive(self, timeout_seconds: float) -> list[Delivery]:
        """What has arrived, as soon as anything has; no more than the prefetch is ever unacknowledged.

        Call it every few seconds, it keeps the connection alive as well. Raises ``BrokerUnavailable``.
        """

    @abstractmethod
    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove these from the queue."""

    @abstractmethod
    def lengths(self) -> dict[str, int]:
        """How many messages are ready in the event queue and in this one, by name. Raises ``DepthUnreadable``."""

    @abstractmethod
    def close(self) -> None:
        """End the connection. Never raises. What is unacknowledged goes back to the queue."""


class HeartbeatConsumer(Protocol):
    """Heartbeats of workers; what nobody takes in time is gone. For one thread.

    What can't be a heartbeat is left out. After ``BrokerUnavailable`` open another one.
    """

    @abstractmethod
    def receive(self, timeout_seconds: float) -> list[bytes]:
        """The bodies that arrive in that time, or the first few thousand. Raises ``BrokerUnavailable``."""

    @abstractmethod
    def close(self) -> None:
        """End the connection. Never raises."""


class EventMarker(Protocol):
    """Puts marks into the event queue, on a connection of its own. For one thread.

    After ``BrokerUnavailable`` open another one.
    """

    # Whether there is a queue of dead letters, so that a second mark is needed.
    has_dead_letters: bool

    @abstractmethod
    def place(self, mark: str, *, dead_letters: bool) -> None:
        """Put a mark behind all that is in the event queue now, or in that of its dead letters; wait for the confirm.

        It may have arrived even if this raises ``BrokerUnavailable``. Raises ``QueueRefused`` where the queue is gone.
        """

    @abstractmethod
    def close(self) -> None:
        """End the connection. Never raises."""


@attrs.define(slots=True, frozen=True)
class QueueInfo:
    """A queue at one point in time: ``depth`` messages are ready, ``consumers`` (None: unknown) take from it.

    ``holds``: whether a given message is among them, ``ahead``: how many are before it; None where that is unknown.
    """

    queue: str
    exists: bool
    depth: int
    consumers: int | None = None
    holds: bool | None = None
    ahead: int | None = None


class QueueInspector(Protocol):
    """Looks at queues, on a connection of its own. For one thread; raises ``BrokerUnavailable``.

    Messages that workers hold unacknowledged are not counted.
    """

    @property
    @abstractmethod
    def broken(self) -> bool:
        """Whether the connection is lost for good; open another one then."""

    @abstractmethod
    def depth(self, queue: str) -> int:
        """Ready messages in ``queue``, 0 where it doesn't exist; declares nothing. Raises ``DepthUnreadable``."""

    @abstractmethod
    def info(self, queue: str, message: str | None = None) -> QueueInfo:
        """Depth and consumers of ``queue``, and what can be told of the message with this id; declares nothing.

        RabbitMQ counts consumers and shows no messages. Redis shows messages and knows no consumers; queues always
        exist there. Raises ``DepthUnreadable``.
        """

    @abstractmethod
    def worker_is_connected(self, hostname: str) -> bool | None:
        """Whether a worker of this name is connected, by the queue it is controlled through; None if unknown.

        Only RabbitMQ tells. A worker without remote control has no such queue.
        """

    @abstractmethod
    def declare(self, queue: str) -> None:
        """Make ``queue`` as a worker with ``-Q queue`` does, with the configured arguments; on RabbitMQ.

        Raises ``QueueRefused`` where it exists and differs. Elsewhere queues come into being with their first message.
        """

    @abstractmethod
    def close(self) -> None:
        """End the connection. Never raises."""
