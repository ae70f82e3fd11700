"""The judge of the crash tests sees what it is there to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.events import outcome
from faults.fleet import Slot, died
from faults.judge import Note, Tables, Verdict, judge, judge_depths

QUEUE = "tests.save"


def task(
    number: int, run: int | None = None, status: str = "next_run_scheduled", policy: str = "oneshot"
) -> tuple[object, ...]:
    return (number, 100 + number, status, number if run is None else run, QUEUE, policy)


def run(
    number: int,
    identifier: int = 0,
    status: str = "scheduled",
    *,
    started: bool = False,
    ended: bool = False,
    reason: str | None = None,
) -> tuple[object, ...]:
    identifier = identifier or number
    return (100 + number, identifier, f"id-{identifier}", status, ended, 1000.0 + number, started, reason)


def note(number: int, identifier: int = 0, *, queue: str = QUEUE, redelivered: bool = False) -> Note:
    return Note(queue, f"id-{identifier or number}", number, redelivered, 1005.0)


TASKS, RUNS, NOTES = [task(1), task(2)], [run(1), run(2)], [note(1), note(2)]
FINE = Tables(TASKS, RUNS, [], [("https://a", True)])
VISIT = Note(QUEUE, "id-v", "https://a", False, 1005.0)


def violations(tables: Tables, notes: list[Note], planned: range = range(1, 3)) -> list[str]:
    """What the judge objects to, without the cases."""
    return [each.partition(": ")[0].split(" ", 1)[1] for each in judge(tables, notes, planned).violations]


def test_nothing_is_objected_to_where_all_is_well_and_repetitions_are_counted() -> None:
    verdict = judge(FINE, [*NOTES, VISIT, note(1), note(2, redelivered=True)], range(1, 3))

    assert verdict == Verdict(messages=5, sent_twice=1, redelivered=1, longest_seconds=4.0)


@pytest.mark.parametrize(
    ("tables", "notes", "objection"),
    [
        (Tables(TASKS, RUNS, [], []), [note(1)], ["tasks lost", "runs open and not sent"]),
        (
            Tables(TASKS, RUNS, [], []),
            [*NOTES, note(2, 7)],
            ["subjects under two ids", "tasks sent under an id that no run of theirs has"],
        ),
        (
            Tables(TASKS, [*RUNS, run(2, 3)], [], []),
            [*NOTES, note(2, 3)],
            ["subjects under two ids", "tasks without exactly one run", "tasks that don't know their run"],
        ),
        (Tables([task(1), task(2, run=9)], RUNS, [], []), NOTES, ["tasks that don't know their run"]),
        (Tables(TASKS, RUNS, [(5, 1, QUEUE)], []), NOTES, ["batches left in the outbox"]),
        (Tables([*TASKS, task(2)], RUNS, [], []), NOTES, ["tasks created twice"]),
        (Tables(TASKS[:1], RUNS[:1], [], []), NOTES[:1], ["tasks planned and not there"]),
        (
            Tables([task(1), task(2, status="next_run_not_scheduled")], RUNS, [], []),
            NOTES,
            ["tasks not in flight"],
        ),
        (Tables(TASKS, RUNS, [], []), [note(1), note(2, queue="other")], ["tasks in a wrong queue"]),
        (Tables(TASKS, [run(1), run(2, status="lost")], [], []), NOTES, ["runs that ended"]),
        (FINE, NOTES, ["visits lost"]),
        (Tables(TASKS, RUNS, [], [("https://a", False)]), [*NOTES, VISIT], ["visits sent and not recorded"]),
        (
            FINE,
            [*NOTES, VISIT, Note(QUEUE, "id-w", "https://a", False, 1005.0)],
            ["subjects under two ids"],
        ),
    ],
)
def test_each_thing_that_does_not_hold_is_objected_to(tables: Tables, notes: list[Note], objection: list[str]) -> None:
    assert violations(tables, notes) == objection


ENDED = [
    run(1, status=outcome("id-1")[0], started=True, ended=True),
    run(2, status=outcome("id-2")[0], started=True, ended=True),
]
DONE = {"eventful": "completed", "uneventful": "completed", "failed": "disabled"}
AFTER = [task(1, status=DONE[outcome("id-1")[0]]), task(2, status=DONE[outcome("id-2")[0]])]
OTHERWISE = "failed" if outcome("id-2")[0] != "failed" else "eventful"
FAILED = run(3, status="failed", ended=True, reason="can't be sent")


def reported(tables: Tables, notes: list[Note]) -> list[str]:
    """What the judge objects to where the drainer tells how runs end."""
    objections = judge(tables, notes, range(1, 3), reported=True).violations
    return [each.partition(": ")[0].split(" ", 1)[1] for each in objections]


def test_runs_that_ended_as_their_events_say_are_not_objected_to() -> None:
    again = [AFTER[0], task(2, status="next_run_not_scheduled", policy="recurring")]

    assert reported(Tables(AFTER, ENDED, [], []), NOTES) == []
    assert reported(Tables(again, ENDED, [], []), NOTES) == []
    assert reported(Tables(AFTER, [*ENDED, FAILED], [], [], [(103, "due"), (104, "never")]), NOTES) == []


@pytest.mark.parametrize(
    ("tables", "objection"),
    [
        (
            Tables([AFTER[0], task(2)], [ENDED[0], run(2, status="started", started=True)], [], []),
            ["runs open for ever whose worker lived"],
        ),
        (
            Tables([AFTER[0], task(2)], [ENDED[0], run(2)], [], []),
            ["runs open for ever whose worker lived", "runs whose start was acknowledged and not applied"],
        ),
        (
            Tables(AFTER, [ENDED[0], run(2, status=outcome("id-2")[0], ended=True)], [], []),
            ["runs whose start was acknowledged and not applied"],
        ),
        (
            Tables(
                [AFTER[0], task(2, status=DONE[OTHERWISE])],
                [ENDED[0], run(2, status=OTHERWISE, started=True, ended=True)],
                [],
                [],
            ),
            ["runs that ended otherwise than their events say"],
        ),
        (Tables([AFTER[0], task(2)], ENDED, [], []), ["tasks that did not follow the end of their run"]),
        (
            Tables(AFTER, ENDED, [], [], [(103, "due")]),
            ["tasks that were neither sent nor failed with a reason"],
        ),
        (
            Tables(AFTER, [*ENDED, run(3, status="failed", ended=True)], [], [], [(103, "due")]),
            ["tasks that were neither sent nor failed with a reason"],
        ),
        (
            Tables(AFTER, [*ENDED, run(3)], [], [], [(103, "due")]),
            ["runs open and not sent", "tasks that were neither sent nor failed with a reason"],
        ),
        (Tables(AFTER, [*ENDED, FAILED], [], [], [(103, "never")]), ["runs of tasks that are never due"]),
    ],
)
def test_each_end_that_was_reported_and_is_not_recorded_is_a_violation(tables: Tables, objection: list[str]) -> None:
    assert reported(tables, NOTES) == objection


def test_a_service_that_died_of_an_unknown_error_is_objected_to(tmp_path: Path) -> None:
    fine, bad = (Slot(n, ["run"], {}, tmp_path / f"{n}.log") for n in range(2))
    fine.log.write_text('level=warning event="service waits"\n')
    bad.log.write_text('level=error event="service died, is started anew"\n' * 2)

    assert died([fine]) == []
    assert died([fine, bad]) == [f"a service died 2 times: see {bad.log}"]


def test_one_sample_over_a_limit_is_a_violation_and_the_deepest_is_reported() -> None:
    fine, over = Verdict(), Verdict()

    judge_depths(fine, {"a": {"0": 5, "9": 1}, "b": {"70": 2}}, {"a": 10, "b": None})
    judge_depths(over, {"a": {"0": 5, "11": 1}}, {"a": 10})

    assert (fine.violations, fine.worst, fine.samples) == ([], "9/10", 8)
    assert over.violations == ["1 samples over the limit of a: 11 where 10 is the limit"]
