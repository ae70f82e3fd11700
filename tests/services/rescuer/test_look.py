"""A look at a queue: what it shows of a run, and in which order it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest

from swh_sched_runner.broker.interface import QueueInfo
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.exc import DepthUnreadable
from swh_sched_runner.services.rescuer.look import Look, Looked, Target
from swh_sched_runner.services.service import Heartbeat
from tests.services.rescuer.test_rules import LIFE

SETTINGS = RescuerSettings(drain_seconds=0.5, between_looks_seconds=0.001)
RUN = Target("run-1", "q")
W2 = attrs.evolve(LIFE, id=2, hostname="w2")
EMPTY = QueueInfo("q", True, 0, 1)
BUSY = QueueInfo("q", True, 5, 1)


class Hurried(Heartbeat):
    """Waits are over at once, and noted."""

    def __init__(self, done: list[str]) -> None:
        super().__init__()
        self._done = done

    def wait(self, seconds: float) -> bool:
        self._done.append("wait")
        return False


class Seen:
    """Answers of broker and workers, the last one again and again; ``done`` is what was asked, in order."""

    def __init__(
        self, infos: Sequence[QueueInfo | Exception], answers: Sequence[Mapping[str, set[str]]], ids: Any = ()
    ):
        self.infos, self.answers, self.ids = list(infos), list(answers), list(ids)
        self.done: list[str] = []

    def _next(self, what: str, of: list[Any]) -> Any:
        self.done.append(what)
        return of.pop(0) if len(of) > 1 else of[0]

    def info(self, queue: str) -> QueueInfo:
        found = self._next("info", self.infos)
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, QueueInfo)
        return found

    def ask(self, hostnames: Sequence[str], backend_ids: Sequence[str]) -> Mapping[str, set[str]]:
        found: Mapping[str, set[str]] = self._next("ask", self.answers)
        return {hostname: has for hostname, has in found.items() if hostname in hostnames}

    def hold(self, queue: str, heartbeat: Heartbeat) -> Any:
        self.done.append("hold")
        return self

    def ready_ids(self, most: int) -> frozenset[str] | None:
        found: frozenset[str] | None = self._next("read", self.ids)
        return found

    def release(self) -> None:
        self.done.append("release")

    def look(self, wanted: Target = RUN, lives: Sequence[Any] = (LIFE,)) -> Looked:
        return Look(self.info, self.ask, self.hold, SETTINGS).run([wanted], lives, Hurried(self.done))


def outcome(looked: Looked, run: str = "run-1") -> str:
    [found] = [
        kind
        for kind, runs in (("gone", looked.gone), ("held", looked.held), ("undecided", looked.undecided))
        if run in runs
    ]
    return found


def test_an_empty_queue_is_looked_at_twice_under_its_lease_and_workers_are_asked_between() -> None:
    seen = Seen([EMPTY], [{"w1": set()}])

    looked = seen.look()

    assert outcome(looked) == "gone"
    assert seen.done == [*("info", "hold", "info", "release"), "ask", "wait", *("info", "hold", "info", "release")]


def test_a_busy_queue_is_read_before_and_after_its_workers_are_asked() -> None:
    seen = Seen([BUSY], [{"w1": set()}], [frozenset({"another"})])

    looked = seen.look()

    assert outcome(looked) == "gone"
    drain = ["info", "wait", "info"]
    assert seen.done == ["info", "hold", *drain, "info", "read", "ask", "read", "info", "release"]


def test_a_queue_that_drains_is_empty_and_stays_leased_until_it_was_seen_twice() -> None:
    seen = Seen([BUSY, BUSY, EMPTY], [{"w1": set()}])

    looked = seen.look()

    assert outcome(looked) == "gone"
    assert seen.done == ["info", "hold", "info", "wait", "info", "ask", "wait", "info", "release"]


def test_where_consumers_cannot_be_counted_what_they_hold_is_read() -> None:
    seen = Seen([QueueInfo("q", True, 0)], [{"w1": set()}], [frozenset({"run-1"})])

    assert outcome(seen.look()) == "held"
    assert "read" in seen.done


def test_a_queue_that_is_gone_needs_no_lease() -> None:
    seen = Seen([QueueInfo("q", False, 0, 0)], [{}])

    looked = seen.look(lives=())

    assert outcome(looked) == "gone"
    assert "hold" not in seen.done
    assert looked.gone["run-1"]["queue_exists"] is False


@pytest.mark.parametrize(
    ("infos", "answers", "ids", "lives", "expected"),
    [
        ([EMPTY], [{"w1": {"run-1"}}], (), [LIFE], "held"),
        ([EMPTY], [{}], (), [LIFE], "undecided"),
        ([EMPTY], [{"w1": set()}], (), [], "undecided"),
        ([EMPTY], [{"w1": set(), "w2": set()}], (), [LIFE, W2], "undecided"),
        ([QueueInfo("q", True, 0, 2)], [{"w1": set(), "w2": {"run-1"}}], (), [LIFE, W2], "held"),
        ([QueueInfo("q", True, 0, 2)], [{"w1": set(), "w2": set()}], (), [LIFE, W2], "gone"),
        ([EMPTY, EMPTY, EMPTY, QueueInfo("q", True, 0, 2)], [{"w1": set()}], (), [LIFE], "undecided"),
        ([EMPTY], [{"w1": set()}], (), [LIFE, attrs.evolve(W2, queues=None)], "undecided"),
        ([EMPTY], [{"w1": set()}], (), [LIFE, attrs.evolve(W2, queues=["another"])], "gone"),
        ([BUSY], [{"w1": set()}], [None], [LIFE], "undecided"),
        ([BUSY], [{"w1": set()}], [frozenset(), frozenset({"run-1"})], [LIFE], "held"),
        ([BUSY], [{"w1": set()}], [frozenset({"run-1"}), frozenset()], [LIFE], "held"),
        ([BUSY], [{}], [frozenset()], [LIFE], "undecided"),
        ([DepthUnreadable(queue="q", reason="no rights")], [{"w1": set()}], (), [LIFE], "undecided"),
        ([EMPTY, EMPTY, BUSY], [{"w1": set()}, {"w1": {"run-1"}}], [frozenset()], [LIFE], "held"),
    ],
    ids=[
        *("has it", "no answer", "an unknown consumer", "a consumer less", "another has it", "two have nothing"),
        *("a consumer comes", "unknown queues", "other queues", "can't be read", "comes back", "is taken"),
        *("busy and no answer", "no rights", "not empty any more"),
    ],
)
def test_what_is_seen_tells_where_a_message_is(
    infos: Any, answers: Any, ids: Any, lives: list[Any], expected: str
) -> None:
    assert outcome(Seen(infos, answers, ids).look(lives=lives)) == expected


@pytest.mark.parametrize(
    ("answers", "counts_not", "expected"),
    [
        ({"w1": {"run-1"}}, True, "gone"),
        ({}, True, "gone"),
        ({"w1": {"run-1"}}, False, "held"),
        ({}, False, "undecided"),
        ({"w1": set()}, False, "gone"),
    ],
)
def test_what_the_worker_says_that_began_the_run_counts_unless_it_takes_too_long(
    answers: Mapping[str, set[str]], counts_not: bool, expected: str
) -> None:
    seen = Seen([EMPTY], [answers])

    assert outcome(seen.look(Target("run-1", "q", LIFE, counts_not))) == expected
