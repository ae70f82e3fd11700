"""Task types and tasks: creation, search, peek, grab."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.exc import InvalidArgument, UnknownTaskType
from tests.support.samples import NOW, a_task, a_type

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 (that is the point)
LATER = NOW + timedelta(hours=1)


def ids(tasks: Iterable[Any]) -> list[int]:
    return [task["id"] for task in tasks]


# Task types


def test_a_task_type_that_exists_stays_as_it_is(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    backend.create_task_type(a_type(description="another one", max_queue_length=7))

    assert backend.get_task_types() == [a_type()]
    assert backend.get_task_type("load-git") == a_type()
    assert backend.get_task_type("load-svn") is None


def test_keys_left_out_take_the_default_and_none_is_unlimited(backend: SchedulerBackend) -> None:
    backend.create_task_type({"type": "a", "description": "d", "backend_name": "n"})
    backend.create_task_type({"type": "b", "description": "d", "backend_name": "n", "max_queue_length": None})

    assert [found["max_queue_length"] for found in backend.get_task_types()] == [1000, None]
    assert backend.get_task_types()[0].keys() == set(backend.task_type_keys)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": ""}, "type"),
        ({"type": "a\0b"}, "type"),
        ({"description": None}, "description"),
        ({"backend_name": 5}, "backend_name"),
        ({"backoff_factor": 0}, "backoff_factor"),
        ({"backoff_factor": -1.5}, "backoff_factor"),
        ({"backoff_factor": math.nan}, "backoff_factor"),
        ({"default_interval": "1 day"}, "default_interval"),
        ({"min_interval": timedelta(days=-1)}, "min_interval"),
        ({"min_interval": timedelta(days=9)}, "min_interval"),
        ({"max_queue_length": -1}, "max_queue_length"),
        ({"num_retries": 2**63}, "num_retries"),
        ({"colour": "red"}, "task_type"),
    ],
)
def test_a_task_type_that_makes_no_sense_is_refused_by_name(
    backend: SchedulerBackend, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidArgument, match=named):
        backend.create_task_type(a_type(**change))
    assert backend.get_task_types() == []


# Creation


def test_created_tasks_come_back_whole_and_in_the_order_of_the_input(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())

    created = backend.create_tasks(a_task(n) for n in (3, 1, 2))

    assert [task["arguments"]["kwargs"]["url"][-1] for task in created] == ["3", "1", "2"]
    assert created[0] == {
        "id": created[0]["id"],
        "type": "load-git",
        "arguments": {"args": [], "kwargs": {"url": "https://forge.example/3"}},
        "next_run": NOW,
        "policy": "recurring",
        "status": "next_run_not_scheduled",
        "retries_left": 2,
        "priority": None,
        "current_interval": timedelta(days=1),
    }


def test_creation_is_idempotent_within_a_call_and_between_calls(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())

    first = backend.create_tasks([a_task(1), a_task(2), a_task(1)])
    second = backend.create_tasks([a_task(2), a_task(2), a_task(1), a_task(2)])

    assert [task["arguments"]["args"] for task in first] == [task["arguments"]["args"] for task in reversed(second)]
    assert ids(second) == [first[1]["id"], first[0]["id"]]
    assert len(backend.search_tasks()) == 2


def test_the_order_of_keys_makes_no_other_task_and_missing_arguments_count_as_empty(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    spellings = [{"kwargs": {"a": 1, "b": 2}, "args": ()}, {"kwargs": {"b": 2, "a": 1}}]

    created = backend.create_tasks(a_task(arguments=spelling) for spelling in spellings)

    assert len(created) == 1
    assert created[0]["arguments"] == {"args": [], "kwargs": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "oneshot"},
        {"priority": "high"},
        {"status": "disabled"},
        {"arguments": {"args": [1], "kwargs": {}}},
        {"type": "other"},
    ],
)
def test_a_task_that_differs_is_another_one(backend: SchedulerBackend, change: dict[str, Any]) -> None:
    backend.create_task_type(a_type())
    backend.create_task_type(a_type("other"))

    created = backend.create_tasks([a_task(), a_task() | change])  # type: ignore[typeddict-item]

    assert len(set(ids(created))) == 2


def test_next_run_tells_one_shot_tasks_apart_and_not_recurring_ones(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())

    oneshot = backend.create_tasks([a_task(), a_task(next_run=LATER)], "oneshot")
    recurring = backend.create_tasks([a_task(), a_task(next_run=LATER)], "recurring")

    assert len(set(ids(oneshot))) == 2
    assert len(set(ids(recurring))) == 1


def test_a_recurring_task_in_flight_gets_no_duplicate_and_a_finished_one_does(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    [task] = backend.create_tasks([a_task()])
    backend.grab_ready_tasks("load-git", NOW)

    assert ids(backend.create_tasks([a_task()])) == [task["id"]]

    backend.disable_tasks([task["id"]])
    assert ids(backend.create_tasks([a_task()])) != [task["id"]]


def test_an_unknown_type_is_named_and_nothing_is_written(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())

    with pytest.raises(UnknownTaskType, match="'load-cvs'"):
        backend.create_tasks([a_task(1), a_task(2, "load-cvs")])
    assert backend.search_tasks() == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"next_run": NAIVE}, "next_run"),
        ({"next_run": None}, "next_run"),
        ({"arguments": None}, "arguments"),
        ({"arguments": {"args": [], "other": 1}}, "arguments"),
        ({"arguments": {"args": "abc"}}, "arguments.args"),
        ({"arguments": {"kwargs": {1: 2}}}, "arguments.kwargs"),
        ({"arguments": {"args": [math.nan]}}, "arguments"),
        ({"arguments": {"args": [object()]}}, "arguments"),
        ({"arguments": {"args": ["a\0b"]}}, "arguments"),
        ({"arguments": {"args": ["\ud800"]}}, "arguments"),
        ({"policy": "weekly"}, "policy"),
        ({"status": "running"}, "status"),
        ({"priority": "urgent"}, "priority"),
        ({"retries_left": -1}, "retries_left"),
        ({"type": 5}, "type"),
        ({"nextrun": NOW}, "task"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused_by_name(
    backend: SchedulerBackend, change: dict[str, Any], named: str
) -> None:
    backend.create_task_type(a_type())

    with pytest.raises(InvalidArgument, match=rf"^{named}: "):
        backend.create_tasks([a_task(1), a_task(2) | change])  # type: ignore[typeddict-item]
    assert backend.search_tasks() == []


def test_a_backslash_before_u0000_is_text_and_no_nul(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    arguments = {"args": ["\\u0000", 'quote " and \\'], "kwargs": {}}

    assert backend.create_tasks([a_task(arguments=arguments)])[0]["arguments"] == arguments


def test_a_recurring_task_needs_a_type_with_an_interval(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type(default_interval=None))

    with pytest.raises(InvalidArgument, match="default_interval"):
        backend.create_tasks([a_task()])
    assert len(backend.create_tasks([a_task()], "oneshot")) == 1


def test_two_concurrent_calls_create_one_task(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    calls = 8
    together = threading.Barrier(calls)

    def create(number: int) -> list[int]:
        together.wait()
        numbers = range(200) if number % 2 else reversed(range(200))
        return sorted(ids(backend.create_tasks(a_task(n) for n in numbers)))

    with ThreadPoolExecutor(calls) as pool:
        created = list(pool.map(create, range(calls)))

    assert all(one == created[0] for one in created)
    assert len(backend.search_tasks()) == 200


# Status, search


def test_set_status_changes_next_run_only_if_it_is_given(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    one, two = ids(backend.create_tasks([a_task(1), a_task(2)]))

    backend.set_status_tasks([one, two], "completed")
    backend.set_status_tasks((n for n in [two]), "next_run_not_scheduled", LATER)

    assert [(t["status"], t["next_run"]) for t in backend.get_tasks([two, one])] == [
        ("completed", NOW),
        ("next_run_not_scheduled", LATER),
    ]


def test_search_combines_its_filters_and_answers_in_order_of_id(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    backend.create_task_type(a_type("other"))
    tasks = backend.create_tasks(
        [
            a_task(1),
            a_task(2, next_run=LATER),
            a_task(3, "other", priority="low"),
            a_task(4, policy="oneshot"),
            a_task(5, status="completed"),
        ]
    )
    one, two, three, four, five = ids(tasks)

    assert ids(backend.search_tasks()) == [one, two, three, four, five]
    assert ids(backend.search_tasks(task_id=three)) == [three]
    assert ids(backend.search_tasks(task_id=[five, one])) == [one, five]
    assert ids(backend.search_tasks(task_type="other")) == [three]
    assert ids(backend.search_tasks(status="completed")) == [five]
    assert ids(backend.search_tasks(priority="low")) == [three]
    assert ids(backend.search_tasks(policy="oneshot")) == [four]
    assert ids(backend.search_tasks(before=NOW)) == [one, three, four, five]
    assert ids(backend.search_tasks(after=LATER)) == [two]
    assert ids(backend.search_tasks(before=NOW, after=NOW, task_type="load-git", policy="recurring")) == [one, five]
    assert ids(backend.search_tasks(limit=2)) == [one, two]
    assert backend.search_tasks(task_id=[]) == []


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda b: b.search_tasks(status="running"), "status"),
        (lambda b: b.search_tasks(before=NAIVE), "before"),
        (lambda b: b.search_tasks(limit=-1), "limit"),
        (lambda b: b.search_tasks(task_id="5"), "task_id"),
        (lambda b: b.set_status_tasks([1], "gone"), "status"),
        (lambda b: b.set_status_tasks(["1"]), "task_ids"),
        (lambda b: b.set_status_tasks([1], next_run=NAIVE), "next_run"),
        (lambda b: b.grab_ready_tasks("load-git", NAIVE), "timestamp"),
        (lambda b: b.grab_ready_tasks("load-git", NOW, -1), "num_tasks"),
        (lambda b: b.peek_ready_tasks(None), "task_type"),
    ],
)
def test_a_wrong_argument_is_named(
    backend: SchedulerBackend, call: Callable[[SchedulerBackend], object], named: str
) -> None:
    with pytest.raises(InvalidArgument, match=rf"^{named}: "):
        call(backend)


# Peek and grab


def test_peek_shows_due_tasks_without_priority_in_order_of_next_run(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    backend.create_task_type(a_type("other"))
    late, early, *_ = ids(
        backend.create_tasks(
            [
                a_task(1, next_run=NOW),
                a_task(2, next_run=NOW - timedelta(days=1)),
                a_task(3, next_run=LATER),
                a_task(4, priority="high"),
                a_task(5, status="disabled"),
                a_task(6, "other"),
            ]
        )
    )

    assert ids(backend.peek_ready_tasks("load-git", NOW)) == [early, late]
    assert ids(backend.peek_ready_tasks("load-git", NOW, 1)) == [early]
    assert backend.peek_ready_tasks("load-git", NOW, 0) == []
    assert ids(backend.peek_ready_tasks("load-git", NOW)) == [early, late]  # looking takes nothing


def test_peek_priority_shows_high_before_normal_before_low_then_next_run(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    low, high, normal, older, _ = ids(
        backend.create_tasks(
            [
                a_task(1, priority="low", next_run=NOW - timedelta(days=9)),
                a_task(2, priority="high"),
                a_task(3, priority="normal"),
                a_task(4, priority="high", next_run=NOW - timedelta(days=1)),
                a_task(5),
            ]
        )
    )

    assert ids(backend.peek_ready_priority_tasks("load-git", NOW)) == [older, high, normal, low]


@pytest.mark.parametrize("priority", [None, "normal"])
def test_grab_takes_what_peek_would_show_once(backend: SchedulerBackend, priority: str | None) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks(a_task(n, priority=priority, next_run=NOW - timedelta(hours=n)) for n in range(5))
    peek, grab = (
        (backend.peek_ready_tasks, backend.grab_ready_tasks)
        if priority is None
        else (backend.peek_ready_priority_tasks, backend.grab_ready_priority_tasks)
    )
    shown = peek("load-git", NOW)

    grabbed = grab("load-git", NOW, 3) + grab("load-git", NOW)

    assert ids(grabbed) == ids(shown)
    assert {task["status"] for task in grabbed} == {"next_run_scheduled"}
    assert peek("load-git", NOW) == grab("load-git", NOW) == []


@pytest.mark.parametrize("priority", [None, "normal"])
def test_a_grab_skips_what_another_one_holds_and_takes_the_next(
    backend: SchedulerBackend, database_url: str, priority: str | None
) -> None:
    from swh_sched_runner.backend.tasks import tasks
    from swh_sched_runner.db.engine import create_engine

    backend.create_task_type(a_type())
    created = ids(backend.create_tasks(a_task(n, priority=priority) for n in range(4)))
    function = tasks.grab_ready if priority is None else tasks.grab_ready_priority
    engine = create_engine(database_url)

    with engine.connect() as one, engine.connect() as two:
        first = ids(function(one, "load-git", NOW, 2))  # its transaction stays open
        second = ids(function(two, "load-git", NOW, 2))
        two.commit()
        one.rollback()
        third = ids(function(one, "load-git", NOW, 9))
        one.commit()
    engine.dispose()

    assert (first, second, third) == (created[:2], created[2:], created[:2])


def _grab_all(database_url: str) -> list[int]:
    with SchedulerBackend(database_url) as backend:
        grabbed: list[int] = []
        while batch := backend.grab_ready_tasks("load-git", NOW, 7):
            grabbed += ids(batch)
        while batch := backend.grab_ready_priority_tasks("load-git", NOW, 7):
            grabbed += ids(batch)
        return grabbed


@pytest.mark.slow
def test_four_processes_grab_every_task_once(backend: SchedulerBackend, database_url: str) -> None:
    backend.create_task_type(a_type())
    created = ids(backend.create_tasks(a_task(n, priority="low" if n % 3 == 0 else None) for n in range(1000)))

    with ProcessPoolExecutor(4) as pool:
        grabbed = list(pool.map(_grab_all, [database_url] * 4))

    assert sorted(chain.from_iterable(grabbed)) == created
