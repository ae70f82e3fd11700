"""Two programs of random calls on the same few rows at once: no deadlock, and nothing that was written is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any
from uuid import UUID

import attr
import attrs
import pytest
from sqlalchemy import Engine, event, text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch, OpenBatch, TaskGroup
from swh_sched_runner.backend.dispatch.visit_batches import Cooldowns, VisitPlan
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.backend.origins import policies
from swh_sched_runner.backend.tasks.operations import Operation, TaskOperations
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.db import engine as db_engine
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import DuplicateBackendId, StaleData, UnknownTask
from swh_sched_runner.model import Evidence, OriginVisitStats, VisitOutcome
from tests.support.dice import dice
from tests.support.origins import a_lister, an_origin, mirrors_that_lie, url_of
from tests.support.samples import NOW, a_task, a_type

pytestmark = pytest.mark.slow

STEPS = 1_000
URLS = 30
RETRIES = 100_000
TAKEN = "run-that-stays"
OFF = Cooldowns(absolute_cooldown=None, scheduled_cooldown=None, failed_cooldown=None, not_found_cooldown=None)
TIMESTAMPS = text(
    """
    select r.id, t.type, t.id as task, r.started, r.ended, r.status, r.retries_before, t.retries_left
    from task_run r join task t on t.id = r.task
    """
)


@attrs.define
class Shared:
    """What both programs know: rows to fight for, a clock, and what they were answered."""

    listers: list[UUID]
    failing: list[int]
    numbers: Iterator[int] = attrs.field(factory=count)  # next() of a count is atomic
    runs: list[str] = attrs.field(factory=list)
    told: defaultdict[str, list[Any]] = attrs.field(factory=lambda: defaultdict(list))

    def timestamp(self) -> datetime:
        """A timestamp that nobody else has, before now."""
        return NOW + timedelta(seconds=next(self.numbers))

    def later(self) -> datetime:
        """The same far behind now, which batches of visits write: they may not take it back."""
        return self.timestamp() + timedelta(days=36_500)


class Program:
    """One connection's random calls."""

    def __init__(self, database: Database, dice: Random, shared: Shared) -> None:
        self.backend, self.dispatch = SchedulerBackend.of(database), Dispatch(database)
        self.operations = TaskOperations(database)
        self.dice, self.shared = dice, shared
        self.owner = self.dispatch.open_session()
        self.batches: list[tuple[int, list[str]]] = []
        event.listen(database.engine, "after_cursor_execute", self.linger)

    def linger(self, *_: Any) -> None:
        """A slow network now and then: a transaction stands between two of its statements, or before its commit."""
        if self.dice.random() < 0.3:
            time.sleep(self.dice.random() * 0.003)

    def run(self, together: list[str], meet: threading.Barrier) -> None:
        """First calls that start at the same time as the other program's and are of the same kind, then any."""
        try:
            for step in together:
                meet.wait(30)
                getattr(self, step)()
            for _ in together:
                getattr(self, self.dice.choice(KINDS))()
        except threading.BrokenBarrierError:
            return  # the other one tells what happened
        except BaseException:
            meet.abort()
            raise

    def some(self, things: Any, most: int = 4) -> list[Any]:
        """A few of them, in any order."""
        found = list(things)
        return self.dice.sample(found, min(len(found), self.dice.randint(1, most)))

    def tell(self, what: str, *facts: Any) -> None:
        self.shared.told[what].append(facts)

    # Tasks and runs

    def step_create(self) -> None:
        some = len(self.shared.told["created"]) // 20  # about the same ones as the other program
        wanted = [a_task(some + self.dice.randrange(10), "grabbed") for _ in range(5)]
        wanted += [a_task(next(self.shared.numbers), "archived", policy="oneshot")]
        wanted += [a_task(self.dice.randrange(20), "operated", priority=self.dice.choice(["high", None]))]
        self.dice.shuffle(wanted)
        created = self.backend.create_tasks(wanted)
        for task in created:
            if task["type"] == "grabbed":
                self.tell("created", task["arguments"]["kwargs"]["url"], task["id"])

    def step_grab(self) -> None:
        for task in self.backend.grab_ready_tasks("grabbed", None, 2):
            self.tell("grabbed", task["id"])

    def step_grab_and_run(self) -> None:
        kind = self.dice.choice(["operated", "archived"])
        grab = self.dice.choice([self.backend.grab_ready_tasks, self.backend.grab_ready_priority_tasks])
        self.open([task["id"] for task in grab(kind, None, 3)])

    def step_open_runs_of_tasks_that_fail(self) -> None:
        self.open(self.some(self.shared.failing))

    def open(self, tasks: list[int]) -> None:
        runs = {f"run-{next(self.shared.numbers)}": task for task in tasks}
        with suppress(UnknownTask):  # archived meanwhile
            if len(runs) == 1:
                [(name, task)] = runs.items()
                self.backend.schedule_task_run(task, name)
            else:
                self.backend.mass_schedule_task_runs({"task": task, "backend_id": name} for name, task in runs.items())
            self.shared.runs += runs

    def step_open_a_run_twice(self) -> None:
        with pytest.raises(DuplicateBackendId):
            self.backend.schedule_task_run(self.shared.failing[0], TAKEN)

    def step_start(self) -> None:
        for name in self.some(self.shared.runs[-12:]):
            timestamp = self.shared.timestamp()
            if (run := self.backend.start_task_run(name, {"worker": 1}, timestamp)) is not None:
                self.tell("started", name, run["started"])

    def step_end(self) -> None:
        for name in self.some(self.shared.runs[-12:]):
            self.end(name)

    def end(self, name: str) -> None:
        if (run := self.backend.end_task_run(name, "failed", {"by": id(self)}, self.shared.timestamp())) is not None:
            self.tell("ended", name, (run["ended"], run["status"], run["metadata"]["by"]))

    def step_record_events(self) -> None:
        changes = []
        for name in self.some(self.shared.runs[-12:], 8):
            if self.dice.random() < 0.5:
                changes.append(RunChange(name, started=datetime.now(UTC), noted={"seen": 1}))
            else:
                ended = RunChange(name, status="failed", ended=datetime.now(UTC), evidence=Evidence.FAILED)
                changes.append(ended)
        self.dispatch.record_events(
            changes, [Rejection.of("no event of ours", b"?")] if self.dice.random() < 0.1 else []
        )

    def step_set_status(self) -> None:
        status = self.dice.choice(["next_run_not_scheduled", "completed", "disabled"])
        ids = [task["id"] for kind in ("operated", "archived") for task in self.backend.search_tasks(task_type=kind)]
        self.backend.set_status_tasks(self.some(ids), status, self.dice.choice([None, NOW]))

    def step_disable(self) -> None:
        ids = [task["id"] for kind in ("operated", "archived") for task in self.backend.search_tasks(task_type=kind)]
        self.backend.disable_tasks(self.some(ids))

    def step_operate(self) -> None:
        verb = self.dice.choice(["set", "run-now", "disable", "enable", "respawn", "delete"])
        ids = [task["id"] for task in self.backend.search_tasks(task_type="operated")]
        operation = Operation(verb, priority=self.dice.choice(["low", None]), force=True)
        for outcome in self.operations.apply(operation, self.some(ids)):
            self.tell(outcome.result)

    def step_archive(self) -> None:
        page = self.backend.filter_task_to_archive("2020-01-01", "2100-01-01", 40)["tasks"]
        chosen = self.some(page, 20)
        self.backend.delete_archived_tasks(chosen)
        for row in chosen:
            self.tell("archived", row["task_run_id"])

    # Batches

    def step_open_batch(self) -> None:
        kind = self.dice.choice(["operated", "archived", "grabbed"])
        group = TaskGroup(kind, f"tests.{kind}", None, priority=self.dice.random() < 0.5)
        batch = self.dispatch.open_batch(self.owner.id, "queue", group, 3)
        if batch is not None:
            names = [message.backend_id for message in batch.messages]
            self.batches.append((batch.id, names))
            if kind == "grabbed":
                for run in names:
                    self.tell("batched", run)
            else:
                self.shared.runs += names

    def step_open_visit_batch(self) -> None:
        weights = dict.fromkeys(self.some(policies.POLICIES[:5]), 1.0)
        plan = VisitPlan("git", "operated", 4, weights, OFF)
        if (batch := self.dispatch.open_visit_batch(self.owner.id, "queue", plan, 4)) is not None:
            self.dispatch.close_batch(self.owner.id, batch.id)

    def step_close_batch(self) -> None:
        if self.batches:
            batch, names = self.batches.pop(self.dice.randrange(len(self.batches)))
            if self.dice.random() < 0.5:
                self.dispatch.read_batch(self.owner.id, OpenBatch(batch, "queue"))
            self.dispatch.close_batch(self.owner.id, batch, self.some(names))
            self.dispatch.close_batch(self.owner.id, batch)

    # Listers, origins, visits

    def step_list(self) -> None:
        listed = [
            an_origin(self.dice.choice(self.shared.listers), number, last_update=self.dice.choice([None, NOW]))
            for number in self.some(range(URLS), URLS)
        ]
        for row in self.backend.record_listed_origins(listed):
            self.tell("listed", (row.lister_id, row.url), row.first_seen)

    def step_update_lister(self) -> None:
        [known] = self.backend.get_listers_by_id([self.dice.choice(self.shared.listers)])
        if self.dice.random() < 0.5:
            self.step_list()  # something takes its time between reading and writing
        try:
            written = self.backend.update_lister(attr.evolve(known, current_state={"n": known.current_state["n"] + 1}))
        except StaleData:
            self.tell("stale")
        else:
            assert written.updated > known.updated  # type: ignore[operator]
            self.tell("updated", written.id, written.current_state["n"])

    def step_upsert_stats(self) -> None:
        self.backend.origin_visit_stats_upsert(
            OriginVisitStats(
                url_of(number),
                "git",
                next_visit_queue_position=self.dice.randrange(10**6),
                next_position_offset=self.dice.randrange(10),
                successive_visits=self.dice.randint(1, 3),
            )
            for number in self.some(range(URLS), URLS)
        )

    def step_grab_visits(self) -> None:
        timestamp, policy = self.shared.later(), self.dice.choice(policies.POLICIES[:5])
        lister = self.dice.choice([None, *self.shared.listers])
        for row in self.backend.grab_next_visits("git", 3, policy, timestamp=timestamp, lister_uuid=lister, **OFF):
            self.tell("scheduled", row.url, timestamp)

    def step_record_outcomes(self) -> None:
        self.step_read_stats()  # what was lost must be seen before it is written anew
        outcomes = []
        for number in self.some(range(URLS), URLS):
            status = self.dice.choice(["full", "failed", "not_found"])
            timestamp = self.shared.later()
            outcomes.append(VisitOutcome(url_of(number), "git", timestamp, status, str(timestamp).encode()))
        self.backend.record_visit_outcomes(outcomes)
        for outcome in outcomes:
            self.tell("visited", outcome.url, outcome.date, outcome.status)

    def step_read_stats(self) -> None:
        """Whatever a call that has returned wrote, or something newer, is there."""
        visited, scheduled = list(self.shared.told["visited"]), list(self.shared.told["scheduled"])
        for it in self.backend.origin_visit_stats_get((url_of(number), "git") for number in range(URLS)):
            dates = [date for url, date, _ in visited if url == it.url]
            assert not dates or (it.last_visit is not None and it.last_visit >= max(dates))
            timestamps = [timestamp for url, timestamp in scheduled if url == it.url]
            assert not timestamps or (it.last_scheduled is not None and it.last_scheduled >= max(timestamps))

    def step_update_metrics(self) -> None:
        self.backend.update_metrics(self.dice.choice([None, *self.shared.listers]))

    def step_set_queue_position(self) -> None:
        self.backend.visit_scheduler_queue_position_set("git", self.dice.randrange(10**6))


KINDS = [name for name in vars(Program) if name.startswith("step_")]


@pytest.fixture
def shared(backend: SchedulerBackend) -> Shared:
    backend.create_task_type(a_type("grabbed"))
    backend.create_task_type(a_type("operated", retry_delay=timedelta(0)))
    backend.create_task_type(a_type("archived", num_retries=0))
    backend.create_task_type(a_type("failing", num_retries=RETRIES, retry_delay=timedelta(0)))
    failing = backend.create_tasks(a_task(n, "failing", policy="oneshot") for n in range(3))
    backend.schedule_task_run(failing[0]["id"], TAKEN)
    listers = [a_lister(backend, name) for name in ("a", "b")]
    for lister in backend.get_listers():
        backend.update_lister(attr.evolve(lister, current_state={"n": 0}))
    return Shared(listers, [task["id"] for task in failing])


def run_both(database_url: str, dice: Random, shared: Shared) -> None:
    """Two programs at once, each on a pool of its own."""
    meet = threading.Barrier(2)
    together = dice.choices(KINDS, k=STEPS)
    with ExitStack() as stack, ThreadPoolExecutor(2) as threads:
        programs = []
        for _ in range(2):
            database = Database(db_engine.create_engine(database_url))
            stack.callback(database.close)
            programs.append(Program(database, Random(dice.random()), shared))
            stack.callback(programs[-1].owner.close)
        for running in [threads.submit(program.run, together, meet) for program in programs]:
            running.result(timeout=100)


def test_random_calls_of_two_connections_neither_deadlock_nor_lose_an_update(
    database_url: str, backend: SchedulerBackend, engine: Engine, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_engine, "ATTEMPTS", 1)  # a deadlock that is tried again would go unseen

    run_both(database_url, dice(), shared)

    told = shared.told
    assert (
        min(len(told[what]) for what in ("grabbed", "batched", "ended", "archived", "changed", "stale", "scheduled"))
        > 0
    )
    check_tasks(backend, engine, shared)
    check_runs(engine, shared)
    check_visits(backend, engine, shared)


def check_tasks(backend: SchedulerBackend, engine: Engine, shared: Shared) -> None:
    """One task for equal arguments, taken once; none is forgotten."""
    told = shared.told
    assert each_has_one(told["created"])
    left = [task["id"] for task in backend.grab_ready_tasks("grabbed")]
    with engine.connect() as conn:
        batched = conn.execute(
            text("select task from task_run where backend_id = any(:names)"),
            {"names": [name for (name,) in told["batched"]]},
        ).scalars()
        taken = Counter([*left, *batched, *(task for (task,) in told["grabbed"])])
    assert set(taken.values()) == {1}
    assert taken.keys() == {task for _, task in told["created"]}


def check_runs(engine: Engine, shared: Shared) -> None:
    """A run has one start, one end and the status that goes with them; each end that counts costs one retry."""
    assert each_has_one(shared.told["started"])
    assert each_has_one(shared.told["ended"])
    with engine.connect() as conn:
        runs = conn.execute(TIMESTAMPS).all()
    for run in runs:
        expected = {"scheduled"} if run.started is None else {"started"}
        assert run.status in (expected if run.ended is None else {"failed", "lost"}), run
    assert not {run.id for run in runs} & {run for (run,) in shared.told["archived"]}
    for task in shared.failing:
        of_task = [run for run in runs if run.task == task]
        counted = sorted(run.retries_before for run in of_task if run.retries_before is not None)
        assert counted
        assert counted == list(range(of_task[0].retries_left + 1, RETRIES + 1))


def check_visits(backend: SchedulerBackend, engine: Engine, shared: Shared) -> None:
    """The last word on each origin stands, and what listers count is what they wrote."""
    told = shared.told
    assert each_has_one(told["listed"])
    for lister in backend.get_listers():
        written = [n for lister_id, n in told["updated"] if lister_id == lister.id]
        assert sorted(written) == list(range(1, lister.current_state["n"] + 1))
    stats = {it.url: it for it in backend.origin_visit_stats_get((url_of(n), "git") for n in range(URLS))}
    for url, it in stats.items():
        assert it.last_scheduled == max((timestamp for of, timestamp in told["scheduled"] if of == url), default=None)
        date, status = max((date, status) for of, date, status in told["visited"] if of == url)
        assert (it.last_visit, it.last_visit_status and it.last_visit_status.value) == (
            date,
            "successful" if status == "full" else status,
        )
        if status == "full":
            assert (it.last_successful, it.last_snapshot) == (date, str(date).encode())
    assert mirrors_that_lie(engine) == []
    known = Counter(lister for (lister, _), _ in set(told["listed"]))
    assert {it.lister_id: it.origins_known for it in backend.update_metrics()} == known


def each_has_one(pairs: list[tuple[Any, Any]]) -> bool:
    """Whether all answers about one thing are the same."""
    answers = defaultdict(set)
    for thing, answer in pairs:
        answers[thing].add(answer)
    return all(len(found) == 1 for found in answers.values())
