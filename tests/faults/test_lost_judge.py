"""The judge of lost runs sees what it is there to see: verdicts that the workers' record doesn't know a cause of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from faults.lost.judge import RunRow, Tables, TaskRow, judge
from faults.lost.record import Event, Execution, Record, Span

BEGAN, ENDED, DIED, JUDGED = 10.0, 12.0, 11.0, 20.0
TASK = TaskRow(1, 101, "completed", "oneshot", 2, 2)
FINE = RunRow(101, 1, "a", "eventful", 9.0, ENDED, started=True, verdict=None, judged=None)
LOST = FINE._replace(status="lost", ended=JUDGED, verdict="worker died", judged=JUDGED)
AGAIN = FINE._replace(id=2, backend_id="b", scheduled=21.0, ended=23.0)
RETRIED = TASK._replace(retries_left=1)
DEATH = {7: DIED}


def execution(
    run: str = "a", began: float = BEGAN, ended: float | None = ENDED, status: str | None = "eventful"
) -> Execution:
    return Execution(run, 1, "tests.lost", 7 if run == "a" else 8, began, ended, status)


def said(run: str = "a", *kinds: str, at: float = ENDED) -> list[Event]:
    return [Event(run, kind, at, {"result": {"status": "success", "eventful": True}}) for kind in kinds]


KILLED = execution(ended=None, status=None)
WELL = Record({"a": [execution()]}, {"a": said("a", "task-started", "task-result")})
# One that was killed while it executed, and is executed again under another id.
SECOND = {"b": [execution("b", 22.0, 23.0)]}
SECOND_SAID = {"b": said("b", "task-started", "task-result", at=23.0)}
DEAD = Record({"a": [KILLED], **SECOND}, {"a": said("a", "task-started", at=BEGAN), **SECOND_SAID}, DEATH)


def objections(tables: Tables, record: Record, planned: Sequence[int] = (1,)) -> list[str]:
    """What the judge objects to, without the cases."""
    return [each.partition(": ")[0].split(" ", 1)[1] for each in judge(tables, record, planned).violations]


def test_true_ends_and_a_loss_that_the_record_knows_are_not_objected_to() -> None:
    assert judge(Tables([TASK], [FINE]), WELL, [1]).violations == []
    verdict = judge(Tables([RETRIED], [LOST, AGAIN]), DEAD, [1])

    assert verdict.violations == []
    assert (verdict.executions, verdict.lost, verdict.false, verdict.failures) == (2, 1, 0, 1)


@pytest.mark.parametrize(
    ("tables", "record", "objection"),
    [
        (
            Tables([TASK], [FINE]),
            replace(WELL, executions={"x": [execution("x")]}),
            "executions under an id that no run",
        ),
        (Tables([TASK], [FINE._replace(started=False)]), WELL, "acknowledged events missing"),
        (Tables([TASK], [FINE._replace(status="uneventful")]), WELL, "runs that ended otherwise than their events"),
        (
            Tables([TASK], [FINE]),
            replace(WELL, executions={"a": [execution(status="failed")]}),
            "events that say otherwise than the worker wrote",
        ),
        (Tables([TASK], [FINE]), replace(WELL, events={}), "runs that ended without an event or a verdict"),
        (Tables([TASK], [FINE._replace(ended=None, status="started")]), WELL, "runs open for ever"),
        (Tables([TASK], [FINE], [(5, 1, "q")]), WELL, "batches left in the outbox"),
        (Tables([TASK, TASK], [FINE]), WELL, "tasks created twice"),
        (Tables([TASK, TASK._replace(number=2, id=102)], [FINE]), WELL, "tasks without a run"),
        (Tables([TASK._replace(retries_left=0)], [LOST, AGAIN]), DEAD, "tasks that don't follow from their runs"),
        (Tables([RETRIED], [LOST, AGAIN._replace(scheduled=19.0)]), DEAD, "tasks in flight under two ids"),
    ],
)
def test_each_thing_that_does_not_hold_is_objected_to(tables: Tables, record: Record, objection: str) -> None:
    assert any(each.startswith(objection) for each in objections(tables, record))


def test_a_task_that_was_planned_and_is_not_there_is_objected_to() -> None:
    assert objections(Tables([TASK], [FINE]), WELL, [1, 2]) == ["tasks planned and not there"]


@pytest.mark.parametrize(
    "record",
    [
        replace(DEAD, deaths={}),  # its worker executes it still
        replace(DEAD, executions={"a": [execution()], **SECOND}, deaths={}),  # its worker has done it
        replace(DEAD, executions={"a": [KILLED, execution("a", 21.0)], **SECOND}),  # somebody had its message
        replace(DEAD, executions=SECOND, deaths={}),  # nobody can have lost its message
        replace(DEAD, executions={"a": [execution(status="retried")], **SECOND}, deaths={}),
    ],
)
def test_a_loss_without_a_cause_is_a_false_one_unless_a_worker_lost_its_network(record: Record) -> None:
    tables = Tables([RETRIED], [LOST, AGAIN])
    cut = replace(record, cuts=[Span(100.0, 101.0)])

    assert objections(tables, record) == ["false losses"]
    assert (objections(tables, cut), judge(tables, cut, [1]).false) == ([], 1)


def test_a_loss_that_a_result_corrects_is_a_false_one_and_counted() -> None:
    record = replace(
        DEAD, executions={"a": [execution(ended=30.0)], **SECOND}, events={**WELL.events, **SECOND_SAID}, deaths={}
    )
    verdict = judge(Tables([RETRIED], [LOST._replace(status="eventful"), AGAIN]), record, [1])

    assert (verdict.lost, verdict.corrected, verdict.false) == (0, 1, 1)


@pytest.mark.parametrize(
    ("record", "right"),
    [
        (DEAD, "worker died"),
        (replace(DEAD, events=SECOND_SAID), "never delivered"),  # its start died with its worker
        (replace(DEAD, executions=SECOND, events=SECOND_SAID), "received, not started"),
        (
            replace(DEAD, executions={"a": [execution()], **SECOND}, deaths={}, outages=[Span(12.5, 15.0)]),
            "event lost",
        ),
    ],
)
def test_only_the_verdict_that_the_record_justifies_is_right(record: Record, right: str) -> None:
    for verdict in ("worker died", "never delivered", "received, not started", "event lost", "timed out"):
        found = objections(Tables([RETRIED], [LOST._replace(verdict=verdict), AGAIN]), record)
        alike = {verdict, right} <= {"never delivered", "received, not started"}
        assert found == ([] if verdict == right or alike else ["verdicts for a reason that the record doesn't know"])
