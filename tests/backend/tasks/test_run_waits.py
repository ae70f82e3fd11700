"""Whether a run executes or waits for its message, and how often it was executed: whatever the order of its events."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.broker.celery.events import (
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskReceived,
    TaskRejected,
    TaskResult,
    TaskRetried,
    TaskStarted,
    TaskSucceeded,
)
from swh_sched_runner.db.engine import Database
from swh_sched_runner.services.listener.merge import fold
from tests.support.samples import NOW, a_type, run_of_a_task

AT = NOW.timestamp()
names = itertools.count()
KINDS = {
    "received": TaskReceived,
    "started": TaskStarted,
    "retried": TaskRetried,
    "requeued": TaskRejected,
    "cancelled": TaskCancelled,
}
MORE: dict[str, dict[str, Any]] = {"requeued": {"requeue": True}, "retried": {"exception": "Busy()"}}


def an_event(kind: str, second: int, run: str = "run-1", worker: str = "w1@here", pid: int = 7) -> Any:
    return KINDS[kind](uuid=run, timestamp=AT + second, hostname=worker, pid=pid, clock=second, **MORE.get(kind, {}))


def where(database: Database, run: str = "run-1") -> dict[str, Any]:
    statement = text(
        "select status, begun is not null and waits_since is null as executes, "
        "metadata - array['attempts', 'retried'] as metadata from task_run where backend_id = :run"
    )
    with database.engine.connect() as conn:
        return dict(conn.execute(statement, {"run": run}).mappings().one())


@pytest.mark.parametrize(
    ("sequence", "executes", "executions"),
    [
        (["received"], False, None),
        (["received", "started"], True, 1),
        (["received", "started", "received", "retried"], False, 1),
        (["received", "started", "received", "retried", "started"], True, 2),
        (["received", "started", "requeued"], False, 1),
        (["received", "started", "requeued", "received", "started"], True, 2),
        (["received", "started", "cancelled"], False, 1),
        (["received", "started", "cancelled", "received", "started"], True, 2),
        (["received", "started", "received"], False, 1),  # delivered again after its worker was gone
        (["received", "started", "started"], True, 2),  # delivered again, late acknowledgement
        (["received", "cancelled"], False, None),
    ],
)
@pytest.mark.parametrize("one_batch", [True, False])
def test_a_run_waits_after_each_sign_that_its_message_comes_again(
    backend: SchedulerBackend,
    database: Database,
    sequence: list[str],
    executes: bool,
    executions: int | None,
    one_batch: bool,
) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend)
    events = [an_event(kind, second) for second, kind in enumerate(sequence)]

    for batch in [events] if one_batch else [[event] for event in events]:
        Dispatch(database).record_events(fold(batch))

    found = where(database)
    assert found["executes"] is executes
    assert found["metadata"].get("executions") == executions
    assert found["status"] == ("started" if executions else "scheduled")


def test_a_copy_of_a_start_is_no_execution_in_its_batch_or_another(
    backend: SchedulerBackend, database: Database
) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend)
    first, second = an_event("started", 1), an_event("started", 2)

    for batch in ([first, first], [second], [first], [second, first, second]):
        Dispatch(database).record_events(fold(batch))

    assert where(database)["metadata"]["executions"] == 2


def test_starts_of_two_lives_with_one_clock_are_two_executions(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend)

    for pid in (7, 8):
        Dispatch(database).record_events(fold([an_event("started", 1, pid=pid)]))

    assert where(database)["metadata"]["executions"] == 2


def test_no_more_than_a_thousand_executions_are_kept(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend)
    starts = [an_event("started", second) for second in range(1_200)]

    for batch in (starts[600:], starts[:700]):
        Dispatch(database).record_events(fold(batch))

    assert where(database)["metadata"]["executions"] == 1_000


def test_the_worker_noted_is_the_last_that_signed(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    run_of_a_task(backend)
    events = [an_event("started", 1, worker="a@one"), an_event("received", 2, worker="b@two", pid=8)]

    for event in reversed(events):
        Dispatch(database).record_events(fold([event]))

    assert where(database)["metadata"] == {"worker": "b@two", "worker_pid": 8, "executions": 1}


def test_nothing_of_it_is_in_what_the_api_returns(backend: SchedulerBackend, database: Database) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend)
    Dispatch(database).record_events(fold([an_event("started", 1)]))

    [run] = backend.get_task_runs([task["id"]])

    assert set(run) == {"id", "task", "backend_id", "scheduled", "started", "ended", "metadata", "status"}


# Whole sequences of several runs, in any order


def a_life(runs: Sequence[str], worker: str, pid: int) -> list[TaskEvent]:
    """All that a worker tells of these runs, each by another way to its end, or none."""
    at = itertools.count(1 + 100 * pid)

    def event(cls: type[Any], run: str, **more: Any) -> Any:
        second = next(at)
        return cls(uuid=run, timestamp=AT + second, hostname=worker, pid=pid, clock=second, **more)

    ways: list[list[tuple[type[Any], dict[str, Any]]]] = [
        [(TaskResult, {"result": {"status": "uneventful"}}), (TaskSucceeded, {})],
        [(TaskFailed, {"exception": "X()"}), (TaskRejected, {"requeue": False})],
        [(TaskFailed, {"exception": "TimeLimit()"}), (TaskFailed, {"exception": "TimeLimit()"})],
        [
            (TaskReceived, {"retries": 1}),
            (TaskRetried, {"exception": "Busy()"}),
            (TaskStarted, {}),
            (TaskSucceeded, {}),
        ],
        [(TaskRejected, {"requeue": True})],
        [(TaskCancelled, {})],
        [],
    ]
    events = []
    for run, way in zip(runs, ways, strict=False):
        events += [event(TaskReceived, run, retries=0), event(TaskStarted, run)]
        events += [event(cls, run, **more) for cls, more in way]
    return events


@pytest.mark.slow
# Without shrinking: an example takes 0.3 s.
@settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_order_of_the_events_of_several_runs_with_copies_ends_in_one_state(
    backend: SchedulerBackend, database: Database, data: st.DataObject
) -> None:
    # given two sets of runs, and the events of two workers on them: the second got what the first gave back
    number = next(names)
    backend.create_task_type(a_type(f"type-{number}"))
    sets = []
    for variant in range(2):
        runs = [f"{number}-{variant}-{n}" for n in range(7)]
        for n, run in enumerate(runs):
            run_of_a_task(backend, run, number=1_000 * variant + n, task_type=f"type-{number}")
        sets.append((runs, [*a_life(runs, "w1@here", 1), *a_life(runs[5:], "w2@there", 2)]))
    (plain, in_order), (mixed, told) = sets
    shuffled = data.draw(st.permutations([*told, *data.draw(st.lists(st.sampled_from(told), max_size=6))]))
    cut = data.draw(st.integers(1, 12))
    # when one is told in order, the other in any, in batches of some size
    Dispatch(database).record_events(fold(in_order))
    for begin in range(0, len(shuffled), cut):
        Dispatch(database).record_events(fold(shuffled[begin : begin + cut]))
    # then
    assert [state(database, run) for run in mixed] == [state(database, run) for run in plain]


def state(database: Database, run: str) -> list[Any]:
    statement = text(
        "select r.started, r.ended, r.status, r.metadata, r.evidence, r.begun, r.waits_since, "
        "cardinality(r.executions), t.status, t.next_run, t.current_interval, t.retries_left "
        "from task_run r join task t on t.id = r.task where r.backend_id = :run"
    )
    with database.engine.connect() as conn:
        return list(conn.execute(statement, {"run": run}).one())
