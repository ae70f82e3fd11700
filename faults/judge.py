"""The judge: reads tables and notes with code of its own, and says what does not hold.

It shares nothing with the product: what it knows of the tables is written down here a second time, what an end does
to a task in ``tests.support.models.end_rule``.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from faults import events
from tests.support.models.end_rule import status_after

SHOWN = 5
TASKS = """
select cast(t.arguments -> 'kwargs' ->> 'n' as int), t.id, t.status, t.run_id,
       case when t.priority is null then tt.backend_name else 'save_code_now:' || tt.backend_name end, t.policy
from task t join task_type tt on tt.type = t.type
where t.arguments -> 'kwargs' ->> 'n' is not null
"""
RUNS = """
select task, id, backend_id, status, ended is not null, cast(extract(epoch from scheduled) as float8),
       started is not null, coalesce(metadata ->> 'reason', metadata ->> 'error')
from task_run
"""
# Those that others wrote by SQL; when they are due.
PLANTED = """
select id, case next_run when 'infinity' then 'never' when '-infinity' then 'ever' else 'due' end
from task where arguments -> 'kwargs' ->> 'n' is null
"""
OUTBOX = "select id, session_id, queue from dispatch_batch"
VISITS = """
select o.url, s.last_scheduled is not null
from listed_origins o left join origin_visit_stats s on s.url = o.url and s.visit_type = o.visit_type
"""


@dataclass(frozen=True)
class Note:
    """A message as the drainer saw it, and when; ``subject`` is a task's number or the URL of a visit."""

    queue: str
    id: str
    subject: int | str
    redelivered: bool
    at: float


@dataclass(frozen=True)
class Tables:
    """What the database holds in the end."""

    tasks: Sequence[tuple[Any, ...]]
    runs: Sequence[tuple[Any, ...]]
    outbox: Sequence[tuple[Any, ...]]
    visits: Sequence[tuple[Any, ...]]
    planted: Sequence[tuple[Any, ...]] = ()


@dataclass
class Verdict:
    """What does not hold, in words, and what was counted: how long the slowest message took to be sent, too."""

    violations: list[str] = field(default_factory=list)
    messages: int = 0
    sent_twice: int = 0
    redelivered: int = 0
    longest_seconds: float = 0.0
    samples: int = 0
    worst: str = "-"

    def object_to(self, what: str, cases: Iterable[object]) -> None:
        """Note a violation if there are any cases of it."""
        found = list(cases)
        if found:
            shown = ", ".join(map(str, found[:SHOWN])) + (", …" if len(found) > SHOWN else "")
            self.violations.append(f"{len(found)} {what}: {shown}")


def read_notes(file: Path) -> list[Note]:
    """The drainer's notes, in the order of arrival."""
    return [Note(*json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def read_tables(database_url: str) -> Tables:
    """The tables, by a connection of the judge's own."""
    with closing(psycopg2.connect(database_url)) as conn, conn.cursor() as cursor:

        def rows(query: str) -> list[tuple[Any, ...]]:
            cursor.execute(query)
            return cursor.fetchall()

        return Tables(rows(TASKS), rows(RUNS), rows(OUTBOX), rows(VISITS), rows(PLANTED))


def judge(tables: Tables, notes: Sequence[Note], planned: Iterable[int], *, reported: bool = False) -> Verdict:
    """Whether each task that was planned has one run, and messages under its id alone, at least one, in its queue.

    ``reported``: the drainer said of each message how its run ended; else nothing ends a run.
    """
    verdict = Verdict(messages=len(notes), redelivered=sum(note.redelivered for note in notes))
    seen: dict[int | str, set[str]] = defaultdict(set)
    queues: dict[int | str, set[str]] = defaultdict(set)
    for note in notes:
        seen[note.subject].add(note.id)
        queues[note.subject].add(note.queue)
    times = Counter(note.id for note in notes if not note.redelivered)
    verdict.sent_twice = sum(count - 1 for count in times.values() if count > 1)
    arrived = {note.id: note.at for note in reversed(notes)}
    waits = (arrived[run[2]] - run[5] for run in tables.runs if run[2] in arrived)
    verdict.longest_seconds = max(waits, default=0.0)
    verdict.object_to("subjects under two ids", (f"{s}: {sorted(ids)}" for s, ids in seen.items() if len(ids) > 1))
    _judge_tasks(verdict, tables, seen, queues, planned)
    ids = set().union(*seen.values()) if seen else set()
    verdict.object_to("runs open and not sent", (r[2] for r in tables.runs if r[2] not in ids and not r[4]))
    if reported:
        _judge_ends(verdict, tables, ids)
    else:
        verdict.object_to("tasks not in flight", (t[0] for t in tables.tasks if t[2] != "next_run_scheduled"))
        verdict.object_to("runs that ended", (r[2] for r in tables.runs if r[3] != "scheduled" or r[4]))
    _judge_planted(verdict, tables, ids)
    _judge_visits(verdict, tables, seen)
    verdict.object_to("batches left in the outbox", tables.outbox)
    return verdict


def _judge_tasks(
    verdict: Verdict,
    tables: Tables,
    seen: Mapping[int | str, set[str]],
    queues: Mapping[int | str, set[str]],
    planned: Iterable[int],
) -> None:
    runs: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for task, *run in tables.runs:
        runs[task].append(tuple(run))
    created = Counter(number for number, *_ in tables.tasks)
    verdict.object_to("tasks created twice", (n for n, count in created.items() if count > 1))
    verdict.object_to("tasks planned and not there", sorted(set(planned) - created.keys()))
    verdict.object_to("tasks lost", (n for n, *_ in tables.tasks if not seen.get(n)))
    verdict.object_to("tasks without exactly one run", (n for n, task, *_ in tables.tasks if len(runs[task]) != 1))
    verdict.object_to(
        "tasks that don't know their run",
        (n for n, task, _, run, *_ in tables.tasks if [r[0] for r in runs[task]] != [run]),
    )
    verdict.object_to(
        "tasks sent under an id that no run of theirs has",
        (n for n, task, *_ in tables.tasks if not seen.get(n, set()) <= {r[1] for r in runs[task]}),
    )
    verdict.object_to(
        "tasks in a wrong queue", (n for n, *_, queue, _ in tables.tasks if not queues.get(n, set()) <= {queue})
    )


def _judge_ends(verdict: Verdict, tables: Tables, ids: set[str]) -> None:
    """Whether everything that a worker said of a run stands in its row, and its task went on from there."""
    taken = [run for run in tables.runs if run[2] in ids]
    verdict.object_to("runs open for ever whose worker lived", (r[2] for r in taken if not r[4]))
    verdict.object_to("runs whose start was acknowledged and not applied", (r[2] for r in taken if not r[6]))
    verdict.object_to(
        "runs that ended otherwise than their events say",
        (f"{r[2]} {r[3]}" for r in taken if r[4] and r[3] != events.outcome(r[2])[0]),
    )
    ends = {run[0]: run[3] for run in taken if run[4]}
    verdict.object_to(
        "tasks that did not follow the end of their run",
        # No type has retries.
        (
            n
            for n, task, status, *_, policy in tables.tasks
            if task in ends and status != status_after(ends[task], policy)
        ),
    )


def _judge_planted(verdict: Verdict, tables: Tables, ids: set[str]) -> None:
    """Whether what can't be sent has failed and says why, unless it was sent, and what is never due was left alone."""
    runs: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for run in tables.runs:
        runs[run[0]].append(run)
    verdict.object_to(
        "runs of tasks that are never due", (t for t, due in tables.planted if due == "never" and runs[t])
    )
    verdict.object_to(
        "tasks that were neither sent nor failed with a reason",
        (
            task
            for task, due in tables.planted
            if due == "due" and not any(r[2] in ids or (r[3] == "failed" and r[4] and r[7]) for r in runs[task])
        ),
    )


def _judge_visits(verdict: Verdict, tables: Tables, seen: Mapping[int | str, set[str]]) -> None:
    verdict.object_to("visits lost", (url for url, _ in tables.visits if not seen.get(url)))
    verdict.object_to("visits sent and not recorded", (url for url, known in tables.visits if not known))


def judge_depths(verdict: Verdict, depths: Mapping[str, Mapping[str, int]], limits: Mapping[str, int | None]) -> None:
    """Whether no sample of a queue's depth was over its limit."""
    worst = 0.0
    for queue, times in depths.items():
        verdict.samples += sum(times.values())
        deepest, limit = max(map(int, times), default=0), limits[queue]
        if limit is None:
            continue
        over = {int(depth): count for depth, count in times.items() if int(depth) > limit}
        if over:
            verdict.violations.append(
                f"{sum(over.values())} samples over the limit of {queue}: {max(over)} where {limit} is the limit"
            )
        if deepest / limit >= worst:
            worst, verdict.worst = deepest / limit, f"{deepest}/{limit}"
