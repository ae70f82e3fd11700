"""Runs whose end nobody may report: what the rescuer reads of them, and its verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import attrs
from sqlalchemy import Connection, Row

from swh_sched_runner.backend.columns import column
from swh_sched_runner.backend.dispatch import listener_lock
from swh_sched_runner.backend.dispatch.listener_lock import HeldLock
from swh_sched_runner.backend.tasks import runs
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.backend.workers import lives
from swh_sched_runner.db.engine import Database
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.model import Evidence

_sql = Queries("tasks/lost")

PAGE = 1_000


@attrs.define(slots=True, frozen=True)
class Suspect:
    """An open run whose messages are all confirmed.

    ``executes``: a worker began it and has not given it back since; else it waits for its message. ``worker`` is the
    life that began it last. ``seconds`` have passed since its last event, ``running_seconds`` since it began last.
    ``state`` is compared again before a verdict.
    """

    id: int
    backend_id: str
    task_type: str
    backend_name: str
    priority: bool
    executes: bool
    has_begun: bool
    worker: int | None
    received: bool
    cancelled: bool
    seconds: float
    running_seconds: float | None
    max_run_seconds: float | None
    state: str


@attrs.define(slots=True, frozen=True)
class Verdict:
    """That a run is lost: the rule that says so, in words, and its evidence; or its outcome, if that was ``recovered``.

    ``lives`` are those that are over, with their ``state``: a sign of theirs makes the verdict void. ``consumers`` are
    those that may have consumed from the ``queue``, with their ``came``: another one, or one that came online again,
    may have the message, and makes it void as well. So does, by rule 3, one that is found to send no task events.
    """

    suspect: Suspect
    rule: str
    verdict: str
    evidence: Mapping[str, Any]
    lives: Mapping[int, str] = attrs.field(factory=dict)
    queue: str | None = None
    consumers: Mapping[int, str] = attrs.field(factory=dict)
    recovered: RunChange | None = None


class Lost:
    """What the rescuer reads and writes of runs; shares the pool of its ``Database``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def runs_in_flight(self) -> list[int]:
        """The runs that tasks in flight follow, in order of id."""
        return self._db.read(_runs_in_flight)

    def open_runs_after(self, after: int, limit: int) -> tuple[int | None, list[int]]:
        """A page of all runs by id: its last id, None behind the last page, and the open runs in it."""
        return self._db.read(_open_runs_after, after, limit)

    def suspects(self, ids: Sequence[int]) -> list[Suspect]:
        """Of these runs those that are open and have left the outbox."""
        return self._db.read(_suspects, ids)

    def place_mark(self, *, dead_letters: bool) -> str:
        """The id of a new mark, to be sent to the event queue or to the queue of its dead letters."""
        return self._db.run(_place_mark, dead_letters)

    def mark_recorded(self, mark: str) -> bool:
        """Whether a mark has come out of the queue that it was put into, and all before it is recorded."""
        return self._db.read(_mark_recorded, mark)

    def judge(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """End the runs of these verdicts, in one transaction; answers those that were void and ended nothing.

        A verdict is void if its run moved since it was looked at, or a life that it rests on gave a sign.
        """
        return self._db.run(_judge, verdicts)

    def unmoved(self, suspects: Sequence[Suspect]) -> set[str]:
        """The backend ids of those that have not moved since they were looked at; what ``judge`` would ask first."""
        return self._db.read(_unmoved, suspects)

    def find(self, given: str) -> tuple[int, bool] | None:
        """The id of the run with this id or backend id, and whether it has ended; None where there is no such run."""
        return self._db.read(_find, given)

    def write_undecided(self, undecided: Mapping[int, tuple[str, str]]) -> None:
        """Keep which runs can't be judged: the rule that waits and what for, by run, in place of those before."""
        self._db.run(_write_undecided, undecided)


@attrs.define(slots=True, frozen=True)
class Marks:
    """Marks that came out of a queue, all before them recorded. ``lock`` must still be held, where there is one."""

    ids: frozenset[str]
    dead_letters: bool = False
    lock: HeldLock | None = None


def record_marks(conn: Connection, marks: Marks) -> None:
    """Note that these marks came out of their queue. Those that nobody placed are ignored."""
    if marks.ids and (marks.lock is None or listener_lock.is_held(conn, marks.lock)):
        conn.execute(_sql.record_marks, {"marks": column(sorted(marks.ids)), "dead_letters": marks.dead_letters})


def _runs_in_flight(conn: Connection) -> list[int]:
    return list(conn.execute(_sql.runs_in_flight).scalars())


def _open_runs_after(conn: Connection, after: int, limit: int) -> tuple[int | None, list[int]]:
    row = conn.execute(_sql.open_runs_after, {"after": after, "limit": limit}).one()
    return row.last, list(row.open)


def _suspects(conn: Connection, ids: Sequence[int]) -> list[Suspect]:
    return [Suspect(**row) for row in conn.execute(_sql.suspects, {"ids": column(ids)}).mappings()]


def _place_mark(conn: Connection, dead_letters: bool) -> str:
    return str(conn.execute(_sql.place_mark, {"dead_letters": dead_letters}).scalar_one())


def _mark_recorded(conn: Connection, mark: str) -> bool:
    return bool(conn.execute(_sql.mark_recorded, {"mark": mark}).scalar())


def _find(conn: Connection, given: str) -> tuple[int, bool] | None:
    run_id = int(given) if given.isascii() and given.isdigit() and len(given) < 19 else None
    row = conn.execute(_sql.find_run, {"given": given, "run_id": run_id}).first()
    return None if row is None else (row.id, row.ended)


def _judge(conn: Connection, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Locks tasks, runs, and who writes lives, in the order of every end."""
    if not verdicts:
        return []
    suspects = [verdict.suspect for verdict in verdicts]
    runs.lock(conn, [suspect.backend_id for suspect in suspects])
    unmoved = _unmoved(conn, suspects)
    lives.lock(conn)
    named = sorted({life for verdict in verdicts for life in verdict.lives})
    now_known = conn.execute(_sql.lives_now, {"ids": column(named)}).all()
    good = [v.suspect.backend_id in unmoved and _stands(v, now_known) for v in verdicts]
    now = conn.execute(Queries("tasks/runs").now).scalar_one()
    # As from events: what a result backend says of the end is held between the opening of the run and now.
    runs.record(conn, [_change(verdict, now) for verdict in compress(verdicts, good)], from_events=True)
    return [verdict for verdict, stands in zip(verdicts, good, strict=True) if not stands]


def _unmoved(conn: Connection, suspects: Sequence[Suspect]) -> set[str]:
    seen = {"ids": column([s.id for s in suspects]), "states": column([s.state for s in suspects])}
    return set(conn.execute(_sql.still_open, seen).scalars())


def _stands(verdict: Verdict, now_known: Sequence[Row[Any]]) -> bool:
    states = {life.id: life.state for life in now_known}
    if any(states.get(life) != state for life, state in verdict.lives.items() if life in states):
        return False
    if verdict.queue is None:
        return True
    consuming = [life for life in now_known if life.lives and (life.queues is None or verdict.queue in life.queues)]
    if verdict.rule == "3" and any(life.sends_no_events for life in consuming):
        return False
    return all(verdict.consumers.get(life.id) == life.came for life in consuming)


def _change(verdict: Verdict, now: Any) -> RunChange:
    noted = {
        "verdict": {
            "verdict": verdict.verdict,
            "rule": verdict.rule,
            "evidence": dict(verdict.evidence),
            "judged": now.isoformat(),
        }
    }
    if verdict.recovered is not None:
        return attrs.evolve(verdict.recovered, end_noted={**verdict.recovered.end_noted, **noted})
    return RunChange(
        verdict.suspect.backend_id,
        status="lost",
        ended=now,
        evidence=Evidence.LOST,
        end_noted={"reason": verdict.verdict, **noted},
    )


def _write_undecided(conn: Connection, undecided: Mapping[int, tuple[str, str]]) -> None:
    runs_of = sorted(undecided)
    conn.execute(
        _sql.write_undecided,
        {
            "run_ids": column(runs_of),
            "rules": column([undecided[run][0] for run in runs_of]),
            "reasons": column([undecided[run][1] for run in runs_of]),
        },
    )
