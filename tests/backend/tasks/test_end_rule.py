"""What the end of a run does to its task."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.db.engine import Database
from swh_sched_runner.model import Evidence, Task
from tests.support.models.end_rule import task_after
from tests.support.samples import NOW, a_task, a_type, run_of_a_task

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
ENDED = NOW + timedelta(minutes=30)
names = itertools.count()


def state(task: Task) -> tuple[Any, ...]:
    return task["status"], task["next_run"], task["current_interval"], task["retries_left"]


@pytest.mark.parametrize(
    ("status", "policy", "retries_left", "expected"),
    [
        ("eventful", "oneshot", 1, ("completed", NOW, DAY, 1)),
        ("uneventful", "oneshot", 1, ("completed", NOW, DAY, 1)),
        ("eventful", "recurring", 1, ("next_run_not_scheduled", ENDED + DAY / 2, DAY / 2, 2)),
        ("uneventful", "recurring", 1, ("next_run_not_scheduled", ENDED + DAY * 2, DAY * 2, 2)),
        ("failed", "oneshot", 2, ("next_run_not_scheduled", ENDED + timedelta(minutes=5), DAY, 1)),
        ("failed", "recurring", 1, ("next_run_not_scheduled", ENDED + timedelta(minutes=5), DAY, 0)),
        ("lost", "oneshot", 2, ("next_run_not_scheduled", ENDED + timedelta(minutes=5), DAY, 1)),
        ("lost", "recurring", 1, ("next_run_not_scheduled", ENDED + timedelta(minutes=5), DAY, 0)),
        ("failed", "oneshot", 0, ("disabled", NOW, DAY, 0)),
        ("lost", "oneshot", 0, ("disabled", NOW, DAY, 0)),
        ("failed", "recurring", 0, ("next_run_not_scheduled", ENDED + DAY, DAY, 2)),
        ("lost", "recurring", 0, ("next_run_not_scheduled", ENDED + DAY, DAY, 2)),
        ("permfailed", "oneshot", 2, ("disabled", NOW, DAY, 2)),
        ("permfailed", "recurring", 2, ("disabled", NOW, DAY, 2)),
    ],
)
def test_an_end_moves_its_task(
    backend: SchedulerBackend, status: str, policy: str, retries_left: int, expected: tuple[Any, ...]
) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, policy=policy, retries_left=retries_left)

    backend.end_task_run("run-1", status, timestamp=ENDED)

    assert state(backend.get_tasks([task["id"]])[0]) == expected
    assert state(task_after(task, a_type(), status, ENDED)) == expected


def test_a_retry_comes_after_an_hour_when_the_type_says_nothing(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type(retry_delay=None))
    task = run_of_a_task(backend)

    backend.end_task_run("run-1", "failed", timestamp=ENDED)

    assert backend.get_tasks([task["id"]])[0]["next_run"] == ENDED + HOUR


def test_a_type_without_retries_has_none(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type(num_retries=None))
    task = run_of_a_task(backend, policy="oneshot")

    backend.end_task_run("run-1", "failed", timestamp=ENDED)

    assert backend.get_tasks([task["id"]])[0]["status"] == "disabled"


@pytest.mark.parametrize(
    ("given_type", "status", "interval"),
    [
        ({"min_interval": timedelta(hours=20)}, "eventful", timedelta(hours=20)),
        ({"max_interval": timedelta(hours=30)}, "uneventful", timedelta(hours=30)),
        ({"min_interval": None}, "eventful", timedelta(hours=12)),
        ({"max_interval": None}, "uneventful", timedelta(hours=48)),
        ({"backoff_factor": None}, "eventful", DAY),
        ({"backoff_factor": None}, "uneventful", DAY),
        ({"backoff_factor": 0.5}, "eventful", timedelta(hours=48)),
        ({"backoff_factor": 1e300, "max_interval": None}, "uneventful", timedelta(days=365000)),
        ({"backoff_factor": 1e-300, "max_interval": None}, "eventful", timedelta(days=365000)),
    ],
)
def test_the_interval_stays_within_its_bounds(
    backend: SchedulerBackend, given_type: dict[str, Any], status: str, interval: timedelta
) -> None:
    backend.create_task_type(a_type(**given_type))
    task = run_of_a_task(backend)

    backend.end_task_run("run-1", status, timestamp=ENDED)

    moved = backend.get_tasks([task["id"]])[0]
    assert moved["current_interval"] == interval
    assert moved["next_run"] == ENDED + interval
    assert task_after(task, a_type(**given_type), status, ENDED) == moved


def test_a_failure_replayed_costs_one_retry(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)

    first = backend.end_task_run("run-1", "failed", {"error": "boom"}, ENDED)
    second = backend.end_task_run("run-1", "failed", {"error": "again"}, ENDED + HOUR)

    assert second == first
    assert backend.get_tasks([task["id"]])[0]["retries_left"] == 1


def test_an_end_of_a_disabled_task_leaves_it_disabled(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)

    backend.disable_tasks([task["id"]])
    run = backend.end_task_run("run-1", "eventful", timestamp=ENDED)

    assert run is not None
    assert run["status"] == "eventful"
    assert state(backend.get_tasks([task["id"]])[0])[:2] == ("disabled", NOW)


def test_an_older_run_does_not_move_a_task_that_was_respawned(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, "old")
    backend.set_status_tasks([task["id"]], "next_run_not_scheduled", NOW)
    [again] = backend.grab_ready_tasks("load-git", NOW)
    backend.schedule_task_run(again["id"], "new", timestamp=NOW)

    backend.end_task_run("old", "permfailed", timestamp=ENDED)
    assert backend.get_tasks([task["id"]])[0]["status"] == "next_run_scheduled"

    backend.end_task_run("new", "eventful", timestamp=ENDED)
    assert state(backend.get_tasks([task["id"]])[0])[:2] == ("next_run_not_scheduled", ENDED + DAY / 2)


def test_a_late_end_does_not_free_a_task_that_was_grabbed_again(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, "old")
    backend.set_status_tasks([task["id"]], "next_run_not_scheduled", NOW)
    backend.grab_ready_tasks("load-git", NOW)  # its run is not opened yet

    backend.end_task_run("old", "eventful", timestamp=ENDED)

    assert backend.get_tasks([task["id"]])[0]["status"] == "next_run_scheduled"


def end(backend_id: str, status: str, evidence: Evidence, ended: datetime = ENDED) -> RunChange:
    return RunChange(backend_id, status=status, ended=ended, evidence=evidence, end_noted={"reason": status})


def test_task_succeeded_alone_keeps_the_interval_even_beyond_its_bounds(
    backend: SchedulerBackend, database: Database
) -> None:
    backend.create_task_type(a_type(default_interval=timedelta(days=20)))
    task = run_of_a_task(backend)

    Dispatch(database).record_events([end("run-1", "eventful", Evidence.SUCCEEDED)])

    moved = backend.get_tasks([task["id"]])[0]
    assert moved["current_interval"] == timedelta(days=20)
    assert moved["next_run"] == ENDED + timedelta(days=20)


@pytest.mark.parametrize(("policy", "retries"), [("recurring", 2), ("recurring", 0), ("oneshot", 2), ("oneshot", 0)])
def test_a_result_corrects_a_loss_as_if_the_loss_had_never_been(
    backend: SchedulerBackend, database: Database, policy: str, retries: int
) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, "corrected", policy=policy, retries_left=retries)
    other = run_of_a_task(backend, "plain", number=1, policy=policy, retries_left=retries)
    result = {"status": "uneventful", "evidence": Evidence.RESULT}

    Dispatch(database).record_events([end("corrected", "lost", Evidence.LOST, ENDED - HOUR / 4)])
    Dispatch(database).record_events([end("corrected", **result), end("plain", **result)])  # type: ignore[arg-type]

    [corrected], [plain] = backend.get_tasks([task["id"]]), backend.get_tasks([other["id"]])
    assert state(corrected) == state(plain)
    [run] = backend.get_task_runs([task["id"]])
    assert (run["status"], run["ended"], run["metadata"]["reason"]) == ("uneventful", ENDED, "uneventful")


def test_a_correction_respects_an_operator_who_disabled_the_task(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, policy="oneshot", retries_left=0)

    Dispatch(database).record_events([end("run-1", "lost", Evidence.LOST)])
    backend.disable_tasks([task["id"]])
    Dispatch(database).record_events([end("run-1", "eventful", Evidence.RESULT)])

    assert backend.get_tasks([task["id"]])[0]["status"] == "disabled"
    assert backend.get_task_runs([task["id"]])[0]["status"] == "eventful"


def test_a_correction_leaves_a_task_alone_that_runs_anew(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type(retry_delay=timedelta(0)))
    task = run_of_a_task(backend)
    Dispatch(database).record_events([end("run-1", "lost", Evidence.LOST)])
    backend.grab_ready_tasks("load-git", ENDED)
    backend.schedule_task_run(task["id"], "run-2", timestamp=ENDED)

    Dispatch(database).record_events([end("run-1", "eventful", Evidence.RESULT)])

    assert backend.get_tasks([task["id"]])[0]["status"] == "next_run_scheduled"


@pytest.mark.parametrize("evidence", list(Evidence))
def test_equal_evidence_changes_nothing(backend: SchedulerBackend, database: Database, evidence: Evidence) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)
    Dispatch(database).record_events([end("run-1", "failed", evidence)])
    before = backend.get_tasks([task["id"]]), backend.get_task_runs([task["id"]])

    Dispatch(database).record_events([end("run-1", "eventful", evidence)])

    assert (backend.get_tasks([task["id"]]), backend.get_task_runs([task["id"]])) == before


def test_timestamps_of_events_lie_between_the_opening_of_the_run_and_now(
    backend: SchedulerBackend, database: Database
) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)
    early, late = NOW - 9 * DAY, NOW + 3650 * DAY

    Dispatch(database).record_events(
        [RunChange("run-1", started=early, status="eventful", ended=late, evidence=Evidence.RESULT)]
    )

    [run] = backend.get_task_runs([task["id"]])
    assert run["started"] == NOW
    assert run["ended"] is not None
    assert run["ended"] < late


# Random histories, beside the model


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["recurring", "oneshot"]),
    st.sampled_from([1.0, 2.0, 4.0]),
    st.integers(0, 3),
    st.lists(st.sampled_from(["eventful", "uneventful", "failed", "lost", "permfailed"]), max_size=6),
)
def test_any_history_of_ends_is_as_the_model_says(
    backend: SchedulerBackend, policy: str, factor: float, retries: int, history: list[str]
) -> None:
    name = f"type-{next(names)}"
    task_type = a_type(name, backoff_factor=factor, num_retries=retries)
    backend.create_task_type(task_type)
    [expected] = backend.create_tasks([a_task(task_type=name)], policy)
    for number, status in enumerate(history):
        grabbed = backend.grab_ready_tasks(name, expected["next_run"])
        assert len(grabbed) == (expected["status"] == "next_run_not_scheduled")
        if not grabbed:
            break
        ended = expected["next_run"] + HOUR * number
        backend.schedule_task_run(expected["id"], f"{name}-{number}")
        backend.end_task_run(f"{name}-{number}", status, timestamp=ended)
        expected = task_after(expected, task_type, status, ended)

    assert backend.get_tasks([expected["id"]]) == [expected]


ends_of_events = st.lists(
    st.sampled_from(
        [
            RunChange("?", started=NOW + timedelta(minutes=1), noted={"worker": "a"}),
            RunChange("?", started=NOW + timedelta(minutes=2), noted={"worker": "a"}, attempts=2),
            RunChange("?", noted={"received": True}, attempts=1),
            end("?", "lost", Evidence.LOST),
            end("?", "eventful", Evidence.SUCCEEDED, ENDED + HOUR),
            end("?", "failed", Evidence.FAILED, ENDED + 2 * HOUR),
            end("?", "uneventful", Evidence.RESULT, ENDED + 3 * HOUR),
        ]
    ),
    min_size=2,
    max_size=7,
)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["recurring", "oneshot"]), st.integers(0, 1), ends_of_events, st.randoms(use_true_random=False))
def test_any_permutation_of_a_runs_changes_with_duplicates_ends_in_the_same_state(
    backend: SchedulerBackend, database: Database, policy: str, retries: int, changes: list[RunChange], random: Any
) -> None:
    name = f"type-{next(names)}"
    backend.create_task_type(a_type(name, num_retries=retries))
    shuffled = changes + random.choices(changes, k=3)
    random.shuffle(shuffled)

    states = []
    for variant, history in enumerate((changes, shuffled)):
        [task] = backend.create_tasks([a_task(variant, task_type=name, policy=policy)])
        backend.grab_ready_tasks(name, NOW)
        backend.schedule_task_run(task["id"], f"{name}-{variant}", timestamp=NOW)
        for change in history:
            fields = {
                key: getattr(change, key) for key in RunChange.__slots__ if key not in ("backend_id", "__weakref__")
            }
            Dispatch(database).record_events([RunChange(f"{name}-{variant}", **fields)])
        [run] = backend.get_task_runs([task["id"]])
        states.append(
            (*state(backend.get_tasks([task["id"]])[0]), *(run[k] for k in ("status", "started", "ended", "metadata")))  # type: ignore[literal-required]
        )

    assert states[0] == states[1]
