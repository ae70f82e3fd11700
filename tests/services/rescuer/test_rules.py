"""What a look at connections shows, which lives are over, and which runs are looked at, case by case."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import attrs
import pytest

from swh_sched_runner.backend.tasks.lost import Suspect
from swh_sched_runner.backend.workers.watched import WatchedLife
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.services.rescuer.lives import ended_by, is_over
from swh_sched_runner.services.rescuer.presence import Absence, Presence
from swh_sched_runner.services.rescuer.suspicion import classify

SETTINGS = RescuerSettings()
LIFE = WatchedLife(
    id=1,
    hostname="w1",
    pid=1,
    queues=["q"],
    blocks=False,
    heartbeat=60.0,
    silent_seconds=100.0,
    is_leaving=False,
    left_running=None,
    left_seconds=None,
    sends_no_events=False,
    missing=None,
    ended_by=None,
    ended_seconds=None,
    came="",
    state="s",
)
RUN = Suspect(
    id=1,
    backend_id="run-1",
    task_type="look",
    backend_name="q",
    priority=False,
    executes=True,
    has_begun=True,
    worker=1,
    received=True,
    cancelled=False,
    seconds=3600.0,
    running_seconds=3600.0,
    max_run_seconds=None,
    state="s",
)


def looks(presence: Presence, now: float, connected: Collection[str], *, of: Collection[str]) -> bool:
    lives = [(number, hostname, 2.0) for number, hostname in enumerate(of)]
    return presence.look(lives, lambda hostname: hostname in connected, now)


def test_a_worker_is_away_since_the_first_look_that_misses_it() -> None:
    presence = Presence()
    for now, connected in ((0, ["w"]), (5, []), (10, [])):
        looks(presence, now, connected, of=["w"])

    assert presence.absence(0) == Absence(5, 2.0)


def test_a_worker_that_is_seen_again_is_not_away() -> None:
    presence = Presence()
    for now, connected in ((0, []), (5, ["w"])):
        looks(presence, now, connected, of=["w"])

    assert presence.absence(0) is None
    assert not presence.anybody_absent


def test_where_it_cannot_be_told_nobody_is_away() -> None:
    presence = Presence()

    presence.look([(0, "w", 2.0)], lambda hostname: None, 0)

    assert presence.absence(0) is None


@pytest.mark.parametrize(
    ("left", "at_once"), [(["a", "b"], False), (["a"], False), ([], True)], ids=["one", "two", "three"]
)
def test_most_and_at_least_three_at_once_are_the_brokers_doing(left: list[str], at_once: bool) -> None:
    presence = Presence()
    looks(presence, 0, ["a", "b", "c"], of=["a", "b", "c"])

    assert looks(presence, 5, left, of=["a", "b", "c"]) is not at_once
    assert presence.absence(2) == Absence(5, 2.0, at_once)


def test_who_was_away_before_most_vanished_is_waited_for_anew() -> None:
    presence = Presence()
    hosts = ["a", "b", "c", "d"]
    looks(presence, 0, hosts, of=hosts)
    looks(presence, 5, ["a", "b", "c"], of=hosts)
    looks(presence, 60, [], of=hosts)

    assert presence.absence(3) == Absence(60, 2.0)


@pytest.mark.parametrize(
    ("life", "absence", "reason"),
    [
        ({}, None, None),
        ({}, Absence(41, 2.0), None),
        ({}, Absence(40, 2.0), "closed"),
        ({}, Absence(40, 109.0), "closed"),
        ({}, Absence(40, 110.0), None),
        ({"heartbeat": 10.0}, Absence(40, 9.0), "closed"),
        ({"heartbeat": 10.0}, Absence(40, 10.0), None),
        ({"heartbeat": 600.0}, Absence(40, 110.0), None),
        ({"heartbeat": None}, Absence(40, 109.0), "closed"),
        ({}, Absence(40, None), None),
        ({}, Absence(40, 2.0, with_most=True), None),
        ({"silent_seconds": 600.0}, Absence(40, 500.0), "silent"),
        ({"silent_seconds": 600.0}, Absence(40, 2.0, with_most=True), "silent"),
        ({"silent_seconds": 599.0}, Absence(40, 500.0), None),
        ({"silent_seconds": 6000.0, "blocks": True}, Absence(40, 500.0), None),
        ({"silent_seconds": 6000.0, "blocks": None}, Absence(40, 2.0), None),
        ({"silent_seconds": 6000.0}, None, None),
        ({"silent_seconds": 49.0}, Absence(40, 2.0), None),
        ({"is_leaving": True}, Absence(40, 2.0), None),
        ({"is_leaving": True, "left_running": 0}, None, "left"),
        ({"is_leaving": True, "left_running": 1, "left_seconds": 3599.0}, None, None),
        ({"is_leaving": True, "left_running": 1, "left_seconds": 3600.0}, None, "left"),
    ],
)
def test_a_life_is_over_if_one_of_the_rules_says_so(
    life: dict[str, Any], absence: Absence | None, reason: str | None
) -> None:
    assert ended_by(attrs.evolve(LIFE, **life), absence, SETTINGS, 100) == reason


@pytest.mark.parametrize(
    ("reason", "seconds", "over"),
    [(None, None, False), ("succeeded", 29.0, False), ("succeeded", 30.0, True), ("closed", 0.0, True)],
)
def test_a_life_that_was_succeeded_may_still_speak_for_a_while(
    reason: str | None, seconds: float | None, over: bool
) -> None:
    assert is_over(attrs.evolve(LIFE, ended_by=reason, ended_seconds=seconds)) is over


@pytest.mark.parametrize(
    ("run", "life", "answers", "rule", "verdict"),
    [
        ({}, {}, {"w1": {"run-1"}}, None, None),
        ({}, {}, {"w1": set()}, "5", "event lost"),
        ({}, {}, {}, "1", "event lost"),
        ({}, {"silent_seconds": 59.0}, {}, None, None),
        ({}, {"ended_by": "succeeded", "ended_seconds": 10.0}, {}, None, None),
        ({}, {"ended_by": "succeeded", "ended_seconds": 60.0}, {}, "2a", "worker died"),
        ({}, {"ended_by": "closed", "ended_seconds": 0.0}, {}, "2b", "worker died"),
        ({}, {"ended_by": "left", "ended_seconds": 0.0}, {}, "2c", "left and not returned"),
        ({}, {"ended_by": "silent", "ended_seconds": 0.0}, {}, "2d", "worker died"),
        ({}, {"ended_by": "forgotten", "ended_seconds": 0.0}, {}, "2", "worker died"),
        ({"worker": 9}, {}, {}, "2", "worker died"),
        ({"worker": None}, {}, {}, "1", "event lost"),
        ({"worker": None, "seconds": 10.0}, {}, {}, None, None),
        ({"worker": None, "max_run_seconds": 10.0}, {}, {}, "4", "timed out"),
        ({"max_run_seconds": 3541.0}, {}, {"w1": {"run-1"}}, None, None),
        ({"max_run_seconds": 3539.0}, {}, {"w1": {"run-1"}}, "4", "timed out"),
        ({"executes": False}, {}, {}, "3", "never delivered"),
        ({"executes": False, "seconds": 599.0}, {}, {}, None, None),
        ({"executes": False, "has_begun": False}, {}, {}, "3", "received, not started"),
        ({"executes": False, "has_begun": False, "received": False}, {}, {}, "3", "never delivered"),
        ({"executes": False, "cancelled": True}, {}, {}, "3", "cancelled"),
    ],
)
def test_what_is_known_of_a_run_tells_which_rule_may_judge_it(
    run: dict[str, Any], life: dict[str, Any], answers: dict[str, set[str]], rule: str | None, verdict: str | None
) -> None:
    found = classify(attrs.evolve(RUN, **run), "q", {1: attrs.evolve(LIFE, **life)}, answers, SETTINGS)

    assert (found and found.rule, found and found.verdict) == (rule, verdict)
