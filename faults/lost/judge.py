"""The judge of lost runs: compares what the database says of each run with what its workers wrote and said.

With code of its own, as ``faults.judge``: what an end does to a task is in ``tests.support.models.end_rule``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import psycopg2

from faults import judge as judge_of_messages
from faults.lost.causes import Causes
from faults.lost.record import Record
from faults.lost.said import Said, said_of
from tests.support.models.end_rule import SUCCEEDED, WAITING, status_after

TASKS = """
select cast(t.arguments -> 'kwargs' ->> 'n' as int), t.id, t.status, t.policy, t.retries_left,
       coalesce(tt.num_retries, 0)
from task t join task_type tt on tt.type = t.type order by 1
"""
RUNS = """
select r.task, r.id, r.backend_id, r.status, cast(extract(epoch from r.scheduled) as float8),
       cast(extract(epoch from r.ended) as float8), r.started is not null, r.metadata -> 'verdict' ->> 'verdict',
       cast(extract(epoch from cast(r.metadata -> 'verdict' ->> 'judged' as timestamptz)) as float8)
from task_run r order by r.id
"""
OUTBOX = "select id, session_id, queue from dispatch_batch"
UNDECIDED = "select run_id, rule, reason from undecided_run"
# Times of several processes on one machine are compared.
SKEW_SECONDS = 0.05


class TaskRow(NamedTuple):
    """A task in the end."""

    number: int
    id: int
    status: str
    policy: str
    retries_left: int
    retries: int


class RunRow(NamedTuple):
    """A run in the end. ``verdict`` stays when a result corrects it."""

    task: int
    id: int
    backend_id: str
    status: str
    scheduled: float
    ended: float | None
    started: bool
    verdict: str | None
    judged: float | None

    @property
    def first_end(self) -> float | None:
        """When it first ended, and its task could go on."""
        return self.ended if self.judged is None else self.judged


@dataclass(frozen=True)
class Tables:
    """What the database holds in the end."""

    tasks: Sequence[TaskRow]
    runs: Sequence[RunRow]
    outbox: Sequence[object] = ()
    undecided: Sequence[object] = ()


@dataclass
class Verdict(judge_of_messages.Verdict):
    """What was found. ``false`` are verdicts on runs that weren't lost, ``corrected`` those that an event corrected."""

    executions: int = 0
    lost: int = 0
    false: int = 0
    corrected: int = 0
    failures: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)


def read_tables(database_url: str) -> Tables:
    """The tables, by a connection of the judge's own."""
    with closing(psycopg2.connect(database_url)) as conn, conn.cursor() as cursor:

        def rows(query: str) -> list[tuple[object, ...]]:
            cursor.execute(query)
            return cursor.fetchall()

        return Tables(
            [TaskRow(*row) for row in rows(TASKS)],  # type: ignore[arg-type]
            [RunRow(*row) for row in rows(RUNS)],  # type: ignore[arg-type]
            rows(OUTBOX),
            rows(UNDECIDED),
        )


def judge(tables: Tables, record: Record, planned: Iterable[int]) -> Verdict:
    """Whether each run has its true end, or is lost for a reason that the record knows, and its task went on."""
    verdict = Verdict(executions=sum(map(len, record.executions.values())))
    verdict.messages = verdict.executions
    runs: dict[int, list[RunRow]] = defaultdict(list)
    for run in tables.runs:
        runs[run.task].append(run)
    _judge_tasks(verdict, tables, runs, planned)
    _judge_ids(verdict, tables, record)
    said = {run.backend_id: said_of(record.events.get(run.backend_id, ())) for run in tables.runs}
    _judge_events(verdict, tables, record, said)
    _judge_losses(verdict, tables, record, said)
    verdict.object_to("runs open for ever", (f"{run.backend_id} {run.status}" for run in tables.runs if not run.ended))
    verdict.object_to("batches left in the outbox", tables.outbox)
    return verdict


def _judge_tasks(
    verdict: Verdict, tables: Tables, runs: Mapping[int, Sequence[RunRow]], planned: Iterable[int]
) -> None:
    """Whether each failure moved ``retries_left`` once, each run began when the one before it had ended."""
    created = Counter(task.number for task in tables.tasks)
    verdict.object_to("tasks created twice", (number for number, count in created.items() if count > 1))
    verdict.object_to("tasks planned and not there", sorted(set(planned) - created.keys()))
    verdict.object_to("tasks without a run", (task.number for task in tables.tasks if not runs[task.id]))
    verdict.object_to("tasks in flight under two ids", _at_once(runs))
    wrong = []
    for task in tables.tasks:
        if any(run.ended is None for run in runs[task.id]):
            continue
        expected, failures = replayed(task, runs[task.id])
        verdict.failures += failures
        if expected != (task.status, task.retries_left):
            wrong.append(f"{task.number}: {task.status} {task.retries_left}, not {expected[0]} {expected[1]}")
    verdict.object_to("tasks that don't follow from their runs", wrong)


def _at_once(runs: Mapping[int, Sequence[RunRow]]) -> Iterator[str]:
    for of_task in runs.values():
        for before, after in pairwise(of_task):
            if before.first_end is None or before.first_end > after.scheduled + SKEW_SECONDS:
                yield f"{before.backend_id} and {after.backend_id}"


def replayed(task: TaskRow, runs: Sequence[RunRow]) -> tuple[tuple[str, int], int]:
    """Status and retries that a task has after these runs, and how many of them failed or were lost."""
    status, left, failures = WAITING, task.retries, 0
    for at, run in enumerate(runs):
        if status != WAITING:
            return (f"a run after {status}", left), failures
        # An end that was corrected when the next run was there already has moved the task.
        corrected_late = run.verdict is not None and at + 1 < len(runs)
        end = "lost" if corrected_late else run.status
        failed = end not in SUCCEEDED
        failures += failed
        status = status_after(end, task.policy, left)
        if status == WAITING:
            left = left - 1 if failed and left > 0 else task.retries
    return (status, left), failures


def _judge_ids(verdict: Verdict, tables: Tables, record: Record) -> None:
    """Whether what was executed are the runs of the tasks, each under its own id."""
    numbers = {task.id: task.number for task in tables.tasks}
    known = {run.backend_id: numbers.get(run.task) for run in tables.runs}
    verdict.object_to(
        "executions under an id that no run of the task has",
        (run for run, of_run in record.executions.items() if any(known.get(run) != each.task for each in of_run)),
    )


def _judge_events(verdict: Verdict, tables: Tables, record: Record, said: Mapping[str, Said]) -> None:
    """Whether everything that the broker got stands in its run, and is what the worker wrote."""
    missing, otherwise, untrue = [], [], []
    for run in tables.runs:
        heard = said[run.backend_id]
        if heard.started is not None and not run.started and not record.is_uncertain(heard.started):
            missing.append(f"{run.backend_id} started")
        if heard.status is None or heard.ended is None:
            continue
        if run.status == "lost" or run.ended is None:
            if not record.is_uncertain(heard.ended):
                missing.append(f"{run.backend_id} {heard.status}, {run.status}")
        elif run.status != heard.status and not record.is_uncertain(heard.ended):
            otherwise.append(f"{run.backend_id} {run.status}, not {heard.status}")
        wrote = {each.status for each in record.executions.get(run.backend_id, ()) if each.status is not None}
        if not heard.may_mean(wrote):
            untrue.append(f"{run.backend_id} {heard.status}, not {sorted(wrote)}")
    verdict.object_to("acknowledged events missing", missing)
    verdict.object_to("runs that ended otherwise than their events say", otherwise)
    verdict.object_to("events that say otherwise than the worker wrote", untrue)
    verdict.object_to(
        "runs that ended without an event or a verdict",
        (
            f"{run.backend_id} {run.status}"
            for run in tables.runs
            if run.ended and run.verdict is None and said[run.backend_id].status is None
        ),
    )


def _judge_losses(verdict: Verdict, tables: Tables, record: Record, said: Mapping[str, Said]) -> None:
    """Whether each verdict is one that the record knows a cause of."""
    causes = Causes(record)
    false, wrong = [], []
    for run in tables.runs:
        if run.verdict is None or run.judged is None:
            continue
        verdict.verdicts[run.verdict] += 1
        verdict.lost += run.status == "lost"
        verdict.corrected += run.status != "lost"
        found = causes.of(run.backend_id, run.scheduled, run.judged, said[run.backend_id])
        if isinstance(found, str):
            false.append(f"{run.backend_id} {run.verdict!r}, but {found}")
        elif run.verdict not in found:
            wrong.append(f"{run.backend_id} {run.verdict!r}, not {' or '.join(sorted(found))}")
    verdict.false = len(false)
    # A worker without a network can't be told from a dead one for ever.
    verdict.object_to("false losses", false if not record.cuts else ())
    verdict.object_to("verdicts for a reason that the record doesn't know", wrong)
