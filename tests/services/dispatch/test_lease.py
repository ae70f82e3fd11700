"""A queue lease counts what fits, and what is known of the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from swh_sched_runner.backend.dispatch.outbox import QueueSeen
from swh_sched_runner.backend.dispatch.ready import QueueState
from swh_sched_runner.broker.interface import Message, PublishResult
from swh_sched_runner.services.dispatch.lease import DRAIN_SECONDS, QueueLease

NEVER = QueueState(None, None, None, False)


class Broker:
    """Confirms the messages that it is told to confirm."""

    def __init__(self, *confirms: str) -> None:
        self.confirms = set(confirms)
        self.unlocked: list[str] = []

    def publish(
        self, queue: str, messages: Sequence[Message], limit: int | None, check: Callable[[], None]
    ) -> PublishResult:
        result = PublishResult(len(messages))
        result.unanswered = len(messages)
        return result

    def wait_for_confirms(self, result: PublishResult) -> None:
        result.give_up()
        result.confirmed |= self.confirms

    def unlock(self, queue: str) -> None:
        self.unlocked.append(queue)


def a_lease(broker: Broker, limit: int | None = 10, depth: int = 0, state: QueueState = NEVER) -> QueueLease:
    return QueueLease(broker, "load", limit, depth, state)  # type: ignore[arg-type]


def publish(lease: QueueLease, *ids: str) -> None:
    lease.reserve(len(ids))
    lease.wait_for_confirms(lease.publish([Message(each, "load", [], {}) for each in ids], lambda: None))


def test_capacity_is_the_limit_less_what_is_ready_and_reserved() -> None:
    lease = a_lease(Broker(), limit=10, depth=4)

    lease.reserve(5)
    assert (lease.capacity, lease.full) == (1, False)
    lease.give_back(2)
    assert lease.capacity == 3
    lease.reserve(3)
    assert (lease.capacity, lease.full) == (0, True)


def test_a_queue_without_a_limit_takes_any_number() -> None:
    lease = a_lease(Broker(), limit=None)
    lease.reserve(1_000_000)
    assert (lease.capacity, lease.full) == (None, False)


def test_a_queue_beyond_its_limit_takes_nothing() -> None:
    assert a_lease(Broker(), limit=10, depth=14).capacity == 0


def test_confirmed_messages_count_as_ready_and_others_keep_their_capacity() -> None:
    lease = a_lease(Broker("a", "b"), limit=10, depth=1)

    publish(lease, "a", "b", "c")

    assert lease.seen() == QueueSeen("load", 3, None)
    assert lease.capacity == 6  # the third may have arrived


def test_a_released_lease_unlocks_its_queue() -> None:
    broker = Broker()
    a_lease(broker).release()
    assert broker.unlocked == ["load"]


def test_the_drain_rate_is_what_left_the_queue_since_the_last_lease_averaged() -> None:
    first = a_lease(Broker(), depth=40, state=QueueState(100, None, 30.0, False))
    assert (first.drained, first.drain_rate) == (2.0, 2.0)
    later = a_lease(Broker(), depth=100, state=QueueState(100, 2.0, DRAIN_SECONDS, False))
    assert later.drained == 0.0
    assert later.drain_rate == pytest.approx(2.0 / 2.718281828)


@pytest.mark.parametrize(
    ("state", "depth"),
    [
        (NEVER, 3),
        (QueueState(5, 1.5, None, False), 3),
        (QueueState(5, 1.5, -1.0, False), 3),  # the database's clock was set back
        (QueueState(5, 1.5, 10.0, False), 6),  # others published to it
    ],
)
def test_what_can_not_be_told_leaves_the_rate_as_it_was(state: QueueState, depth: int) -> None:
    lease = a_lease(Broker(), depth=depth, state=state)
    assert (lease.drained, lease.drain_rate) == (None, state.drain_rate)
