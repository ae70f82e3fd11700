"""The listener's two threads: what is in hand, in which order it is written, and what becomes of it at the end."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.runs import Recorded, RunChange
from swh_sched_runner.broker.interface import BATCH_BYTES, Delivery, EventConsumer
from swh_sched_runner.config import ListenerSettings
from swh_sched_runner.exc import DatabaseUnavailable
from swh_sched_runner.services.listener.listener import Listener
from swh_sched_runner.services.service import Heartbeat
from tests.support.wait import until


class Shelf(EventConsumer):
    """A consumer of what lies on a shelf."""

    queue = "events"
    alone = True
    standing_by = False
    in_order = True

    def __init__(self) -> None:
        self.waiting: list[Delivery] = []
        self.acknowledged: list[str] = []
        self.closed = False
        self._runs: list[str] = []

    def put(self, *runs: str, padding: int = 0) -> None:
        for run in runs:
            self._runs.append(run)
            said = {"type": "task-started", "uuid": run, "timestamp": 1.0, "hostname": "w", "padding": "x" * padding}
            body = json.dumps(said).encode()
            self.waiting.append(Delivery(body, len(self._runs) - 1, len(body)))

    def recover(self) -> None: ...

    def wait(self, timeout_seconds: float) -> bool:
        return bool(self.waiting)

    def receive(self, limit: int, timeout_seconds: float, limit_bytes: int = BATCH_BYTES) -> list[Delivery]:
        taken: list[Delivery] = []
        while self.waiting and len(taken) < limit and sum(each.size for each in taken) < limit_bytes:
            taken.append(self.waiting.pop(0))
        return taken

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged += [self._runs[delivery.tag] for delivery in deliveries]

    def keep_alive(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Gate(Dispatch):
    """A database that takes a batch each time that it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.error: Exception | None = None
        self._permits = threading.Semaphore(0)
        self.reached = threading.Event()

    def let(self, batches: int = 1) -> None:
        self._permits.release(batches)

    def record_events(self, changes: Sequence[RunChange], *_: Any) -> Recorded:
        self.reached.set()
        assert self._permits.acquire(timeout=20)
        if self.error is not None:
            raise self.error
        self.threads.add(threading.current_thread().name)
        self.batches.append([change.backend_id for change in changes])
        return Recorded(frozenset(self.batches[-1]), Counter())

    def trim_rejected_events(self, rows: int, size: int, seconds: float) -> int:
        return 0

    def compare_at_rest(self) -> None:
        pass


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def make_listener(shelf: Shelf, gate: Gate) -> Iterator[Callable[..., Listener]]:
    """A listener that has written a first batch, as one at work has."""
    opened: list[Listener] = []

    def make(**settings: Any) -> Listener:
        listener = Listener(gate, lambda: shelf, ListenerSettings(**({"batch_size": 2} | settings)))
        opened.append(listener)
        shelf.put("first")
        gate.let()
        listener.run_once(Heartbeat())
        assert shelf.acknowledged == ["first"]
        gate.reached.clear()
        return listener

    yield make
    gate.let(100)
    for listener in opened:
        listener.close()


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_while_a_batch_is_written_the_next_is_received_and_no_third(
    shelf: Shelf, gate: Gate, make_listener: Callable[..., Listener]
) -> None:
    # given a listener whose database is busy with a batch
    listener = make_listener()
    shelf.put("a", "b", "c", "d", "e", "f")
    assert listener.run_once(Heartbeat())
    assert gate.reached.wait(20)
    # when it goes on
    round_of_the_second = in_background(lambda: listener.run_once(Heartbeat()))
    # then two batches are in hand, nothing is acknowledged, and the rest stays in the broker
    until(lambda: len(shelf.waiting) == 2)
    round_of_the_second.join(0.3)
    assert round_of_the_second.is_alive()
    assert (len(shelf.waiting), shelf.acknowledged) == (2, ["first"])
    # and each is acknowledged once it is committed, in order
    gate.let()
    round_of_the_second.join(20)
    assert shelf.acknowledged == ["first", "a", "b"]
    gate.let(2)
    while listener.run_once(Heartbeat()):
        pass
    assert shelf.acknowledged == ["first", "a", "b", "c", "d", "e", "f"]
    assert gate.batches == [["first"], ["a", "b"], ["c", "d"], ["e", "f"]]
    assert gate.threads == {"listener-writer"}


def test_an_error_of_the_writer_ends_the_service_and_nothing_is_acknowledged(
    shelf: Shelf, gate: Gate, make_listener: Callable[..., Listener]
) -> None:
    listener = make_listener()
    shelf.put("a", "b", "c")
    gate.error = DatabaseUnavailable(reason="on purpose")
    listener.run_once(Heartbeat())
    gate.let()

    with pytest.raises(DatabaseUnavailable):
        listener.run_once(Heartbeat())

    assert shelf.waiting == []
    assert (shelf.acknowledged, gate.batches) == (["first"], [["first"]])
    listener.close()
    assert (shelf.acknowledged, shelf.closed) == (["first"], True)


def test_closing_finishes_what_is_written_and_acknowledges_it(
    shelf: Shelf, gate: Gate, make_listener: Callable[..., Listener]
) -> None:
    listener = make_listener()
    shelf.put("a", "b")
    listener.run_once(Heartbeat())
    assert gate.reached.wait(20)

    closing = in_background(listener.close)
    closing.join(0.2)
    assert closing.is_alive()
    assert not shelf.closed
    gate.let()
    closing.join(20)

    assert (shelf.acknowledged, shelf.closed) == (["first", "a", "b"], True)


def test_a_batch_is_bounded_in_bytes(shelf: Shelf, gate: Gate, make_listener: Callable[..., Listener]) -> None:
    listener = make_listener(batch_size=100, batch_bytes=65_536)
    shelf.put("a", "b", "c", "d", "e", padding=30_000)
    gate.let(10)

    while listener.run_once(Heartbeat()):
        pass

    assert gate.batches == [["first"], ["a", "b", "c"], ["d", "e"]]


def test_a_service_that_starts_anew_counts_as_started_only_once_something_is_written(shelf: Shelf, gate: Gate) -> None:
    listener = Listener(gate, lambda: shelf, ListenerSettings())
    shelf.put("a")
    gate.error = DatabaseUnavailable(reason="still")
    gate.let()

    with pytest.raises(DatabaseUnavailable):  # in the first round already: nothing clears the trouble before
        listener.run_once(Heartbeat())

    listener.close()
