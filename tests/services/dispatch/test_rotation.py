"""Queues are filled in rotation: fairly, and none that took nothing before it is worth another try."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from swh_sched_runner.backend.dispatch.ready import QueueState, ReadySnapshot, TaskGroup, ThrottleReason
from swh_sched_runner.services.dispatch import rotation
from swh_sched_runner.services.dispatch.fill_pass import FillPass
from swh_sched_runner.services.dispatch.lease import QueueLease, Refusal
from swh_sched_runner.services.dispatch.rotation import Probe, Rotation

QUEUE = "load"
NOTHING = ReadySnapshot([], set())
NOW = 1024.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands: a queue is asked again after milliseconds."""
    monkeypatch.setattr(rotation, "time", SimpleNamespace(monotonic=lambda: NOW))


def a_group(name: str = "git", throttled: ThrottleReason | None = None) -> TaskGroup:
    return TaskGroup(name, QUEUE, 10, False, throttled=throttled)


def a_pass(
    sent: int, depth: int = 0, limit: int | None = 10, state: QueueState | None = None, queue: str = QUEUE
) -> FillPass:
    """A pass over a queue that sent so many messages."""
    nobody: Any = None
    lease = QueueLease(nobody, queue, limit, depth, state or QueueState(None, None, None, False))
    source: Any = "source"
    fill_pass = FillPass(lease, [source], again=False)
    fill_pass.confirmed(source, sent)
    return fill_pass


def a_rotation(*open_queues: str) -> Rotation:
    return Rotation(lambda queue: queue in open_queues)


def test_each_pass_that_sent_something_puts_another_group_first() -> None:
    it, due = a_rotation(), {QUEUE: [a_group(name) for name in "abc"]}
    firsts = []
    for sent in (1, 1, 0, 1):
        chosen = it.choose(due, NOTHING, only_ready=False)
        firsts.append([group.task_type for group in chosen[QUEUE]])
        it.note(due, NOTHING, chosen, {QUEUE: a_pass(sent)})

    assert firsts == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["c", "a", "b"]]


def test_what_an_operator_or_an_open_batch_holds_back_is_not_chosen_and_says_why() -> None:
    due = {
        "paused": [a_group()],
        "open": [a_group()],
        "throttled": [a_group(throttled="rate"), a_group("hg", throttled="paused")],
        "in part": [a_group(throttled="rate"), a_group("hg")],
    }
    it, snapshot = a_rotation("open"), ReadySnapshot([], {"paused"})

    chosen = it.choose(due, snapshot, only_ready=False)
    blocked = it.note(due, snapshot, chosen, {"in part": a_pass(1)})

    assert {queue: [group.task_type for group in groups] for queue, groups in chosen.items()} == {"in part": ["hg"]}
    assert blocked == {"paused": "paused", "open": "open_batch", "throttled": "rate", "in part": None}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (a_pass(0, depth=10), "full"),
        (a_pass(0), None),
        ("leased_elsewhere", "leased_elsewhere"),
        ("unreadable", "unreadable"),
    ],
)
def test_a_queue_that_was_asked_says_why_it_took_nothing(answer: FillPass | Refusal, reason: str | None) -> None:
    it, due = a_rotation(), {QUEUE: [a_group()]}

    assert it.note(due, NOTHING, due, {QUEUE: answer}) == {QUEUE: reason}
    # and as long as it isn't asked again, that holds; when nothing is due, nothing does
    assert it.note(due, NOTHING, [], {}) == {QUEUE: reason}
    assert it.note({}, NOTHING, [], {}) == {QUEUE: None}
    assert it.note({}, NOTHING, [], {}) == {}


def test_a_queue_that_took_nothing_is_left_out_while_others_have_work() -> None:
    it, due = a_rotation(), {QUEUE: [a_group()], "other": [a_group()]}

    it.note(due, NOTHING, due, {QUEUE: a_pass(0, depth=10), "other": a_pass(1, queue="other")})

    assert list(it.choose(due, NOTHING, only_ready=True)) == ["other"]
    assert list(it.choose(due, NOTHING, only_ready=False)) == [QUEUE, "other"]
    [at] = it.probes()
    assert NOW < at <= NOW + rotation.FIRST_PROBE_SECONDS
    it.note({}, NOTHING, [], {})
    assert it.probes() == []


def test_a_filled_queue_is_asked_when_a_quarter_of_it_should_be_free() -> None:
    it, due = a_rotation(), {QUEUE: [a_group()]}
    drained = QueueState(20, None, 2.0, False)  # five a second

    it.note(due, NOTHING, due, {QUEUE: a_pass(1, depth=10, limit=10, state=drained)})

    [at] = it.probes()
    assert at == NOW + 0.25 * 10 / 5


def test_a_queue_that_takes_nothing_is_asked_ever_later_until_it_takes_something() -> None:
    probe = Probe()
    delays = []
    for _ in range(12):
        probe.later()
        delays.append(probe.at - NOW)
    probe.soon(0.0)
    probe.later()

    assert delays[0] <= rotation.FIRST_PROBE_SECONDS
    assert delays[5] > 4 * delays[0]
    assert max(delays) <= rotation.LAST_PROBE_SECONDS
    assert min(delays[-3:]) >= rotation.LAST_PROBE_SECONDS / 2
    assert len({round(delay, 3) for delay in delays[-3:]}) > 1
    assert probe.at - NOW <= rotation.FIRST_PROBE_SECONDS
