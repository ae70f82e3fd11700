"""A day of a small forge through the public API, counted a second time in plain Python."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from random import Random
from typing import Any

import attr
import pytest
from sqlalchemy import Engine

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.exc import StaleData
from swh_sched_runner.model import ListedOrigin, Lister, Task, VisitOutcome
from tests.support.dice import dice
from tests.support.models.forge import SILENT, START, TELLING, Forge, Repository
from tests.support.models.tasks import Run, Tasks
from tests.support.models.visits import Visits
from tests.support.origins import mirrors_that_lie
from tests.support.samples import a_type

pytestmark = pytest.mark.slow

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
TICK = HOUR / 2
TICKS = 48
OUTAGE = range(18, 22)

TYPES = [
    a_type(
        "list-telling",
        default_interval=HOUR,
        min_interval=HOUR,
        max_interval=2 * HOUR,
        num_retries=1,
        backoff_factor=1.5,
    ),
    a_type(
        "list-silent",
        default_interval=HOUR,
        min_interval=HOUR / 2,
        max_interval=HOUR,
        num_retries=0,
        backoff_factor=2.0,
    ),
    a_type("list-dead", default_interval=HOUR),
    a_type("save-code", default_interval=None, num_retries=2, retry_delay=40 * MINUTE),
    a_type("vault-cook", default_interval=None, num_retries=None, retry_delay=None),
]
# What the defaults are to a month, to a day.
COOLDOWNS: dict[str, Any] = {
    "absolute_cooldown": TICK,
    "scheduled_cooldown": 3 * HOUR,
    "failed_cooldown": 2 * HOUR,
    "not_found_cooldown": 4 * HOUR,
}
SHARES = (
    ("git", "already_visited_order_by_lag", 150),
    ("git", "never_visited_oldest_update_first", 200),
    ("git", "origins_without_last_update", 200),
    ("git", "stop_after_success", 100),
    ("git", "first_visits_after_listing", 50),
    ("git", "oldest_scheduled_first", 100),
    ("hg", "oldest_scheduled_first", 60),
    ("hg", "origins_without_last_update", 40),
)


class Day:
    """The scheduler, the forge, and the recount of what the scheduler must know."""

    def __init__(self, backend: SchedulerBackend, dice: Random) -> None:
        self.backend, self.dice, self.forge = backend, dice, Forge(dice)
        self.tasks, self.visits = Tasks(TYPES), Visits()
        self.now, self.tick, self.serial = START, 0, 0
        self.listers = {name: backend.get_or_create_lister(name) for name in ("telling", "silent")}
        self.late: defaultdict[int, list[VisitOutcome]] = defaultdict(list)
        self.ends: defaultdict[int, list[tuple[str, str, dict[str, Any]]]] = defaultdict(list)
        self.archived: list[int] = []
        for task_type in TYPES:
            backend.create_task_type(task_type)

    def pass_by(self) -> None:
        """Half an hour."""
        self.forge.live(self.now, TICK.total_seconds(), share=1 / TICKS)
        self.list_forge()
        self.save_code()
        self.operate()
        for visit_type, policy, count in SHARES:
            self.grab_visits(visit_type, policy, count)
        self.record_visits()
        self.end_runs()
        self.tick, self.now = self.tick + 1, self.now + TICK

    # Listings: recurring tasks

    def list_forge(self) -> None:
        for name in ("telling", "silent", "dead"):
            if self.tick % 8 == 0:  # whoever asks for a listing that is there already gets that one
                self.create(
                    [Task(type=f"list-{name}", arguments=arguments(instance="forge"), next_run=START)], "recurring"
                )
            for run in self.open_runs(f"list-{name}", 5):
                self.start(run.backend_id)
                status = "permfailed" if name == "dead" else self.list_origins(name)
                self.end(run.backend_id, status, {"listing": self.tick}, 2 * MINUTE)

    def list_origins(self, name: str) -> str:
        if self.tick in OUTAGE:
            return "failed"
        lister = self.listers[name]
        assert lister.id is not None
        since = lister.current_state.get("tick", -1)
        shown = list(self.forge.listing(TELLING if name == "telling" else SILENT))
        if name == "telling":
            last = START + since * TICK
            shown = [it for it in shown if since < 0 or it.changed > last or not self.is_listed(lister, it)]
            found = [self.origin(lister, it, last_update=it.changed) for it in shown]
        else:
            found = [self.origin(lister, it) for it in shown] + self.vanished(lister, {it.url for it in shown})
        changed = any(not self.is_listed(lister, it) for it in shown)
        for n in range(0, len(found), 1_000):
            page = found[n : n + 1_000]
            self.visits.list(page, self.backend.record_listed_origins(page))
        self.finish_listing(name)
        return "eventful" if changed else "uneventful"

    def vanished(self, lister: Lister, shown: set[str]) -> list[ListedOrigin]:
        """Enabled origins that the scheduler knows and the forge no longer shows, to be listed as disabled."""
        known, token = [], None
        while True:
            page = self.backend.get_listed_origins(lister.id, limit=1_000, page_token=token)
            known += page.results
            if (token := page.next_page_token) is None:
                break
        expected = [it for it in self.visits.listed.values() if it.lister_id == lister.id and it.enabled]
        assert known == sorted(expected)  # whole rows, in key order
        return [attr.evolve(it, enabled=False) for it in known if it.url not in shown]

    def finish_listing(self, name: str) -> None:
        old = self.listers[name]
        new = attr.evolve(old, current_state={"tick": self.tick}, last_listing_finished_at=self.now + 2 * MINUTE)
        written = self.listers[name] = self.backend.update_lister(new)
        assert written.updated is not None
        assert old.updated is not None
        assert written.updated > old.updated
        assert written == attr.evolve(new, updated=written.updated)
        with pytest.raises(StaleData):
            self.backend.update_lister(new)

    def is_listed(self, lister: Lister, it: Repository) -> bool:
        return (lister.id, it.url, it.visit_type) in self.visits.listed

    def origin(self, lister: Lister, it: Repository, **more: Any) -> ListedOrigin:
        assert lister.id is not None
        return ListedOrigin(lister.id, it.url, it.visit_type, {"number": it.number}, **more)

    # Tasks and runs

    def save_code(self) -> None:
        """One-shot tasks of people, some asked for twice, some that fail and are tried again."""
        wanted = []
        for _ in range(8):
            self.serial += 1
            kind = self.dice.choice(["save-code", "vault-cook"])
            priority = self.dice.choice(["high", "normal", "low", None])
            due = self.now - self.dice.randrange(-30, 30) * MINUTE
            wanted.append(Task(type=kind, arguments=arguments(n=self.serial), next_run=due, priority=priority))
        self.create(wanted + self.dice.sample(wanted, 3), "oneshot")
        for kind in ("save-code", "vault-cook"):
            for urgent in (True, False):
                for run in self.open_runs(kind, 5, priority=urgent):
                    if self.dice.random() < 0.9:
                        self.start(run.backend_id)
                    status = self.dice.choice(
                        ["eventful"] * 3 + ["uneventful", "failed", "failed", "permfailed", "lost"]
                    )
                    later = self.tick + self.dice.choice([0, 0, 0, 1, 5])
                    self.ends[later].append((run.backend_id, status, {"result": self.serial}))

    def create(self, wanted: list[Task], policy: str) -> None:
        distinct = {repr(task): task for task in wanted}.values()
        for task, got in zip(distinct, self.backend.create_tasks(wanted, policy), strict=True):
            self.tasks.created(task, policy, got)

    def open_runs(self, task_type: str, count: int, *, priority: bool = False) -> list[Run]:
        grab = self.backend.grab_ready_priority_tasks if priority else self.backend.grab_ready_tasks
        expected = self.tasks.ready(task_type, self.now, count, priority=priority)
        got = grab(task_type, self.now, count)
        assert got == [it | {"status": "next_run_scheduled"} for it in expected]
        for task in got:
            self.tasks.set(task["id"], "next_run_scheduled")
        names = {f"run-{self.tick}-{task['id']}": task["id"] for task in got}
        self.backend.mass_schedule_task_runs(
            {"task": task, "backend_id": name, "scheduled": self.now} for name, task in names.items()
        )
        opened = [it for it in self.backend.get_task_runs(names.values()) if it["backend_id"] in names]
        for run in opened:
            self.tasks.open(run)
        return [self.tasks.runs[name] for name in names]

    def start(self, backend_id: str) -> None:
        note, timestamp = {"worker": self.tick % 3}, self.now + MINUTE
        got = self.backend.start_task_run(backend_id, note, timestamp)
        assert got == self.tasks.start(backend_id, note, timestamp)

    def end(self, backend_id: str, status: str, note: dict[str, Any], after: timedelta) -> None:
        got = self.backend.end_task_run(backend_id, status, note, self.now + after)
        assert got == self.tasks.end(backend_id, status, note, self.now + after)

    def end_runs(self) -> None:
        """Ends that are due, now and then one of them again, or its start only now."""
        ends = self.ends.pop(self.tick, [])
        for backend_id, status, note in ends + [
            (name, "failed", {"again": 1}) for name, *_ in self.dice.choices(ends, k=2)
        ]:
            self.end(backend_id, status, note, self.dice.randrange(2, 25) * MINUTE)
            if self.dice.random() < 0.1:
                self.start(backend_id)

    def operate(self) -> None:
        """Somebody disables tasks, and sets others to run again."""
        ids = sorted(key for key, task in self.tasks.tasks.items() if not task["type"].startswith("list"))
        for task in self.dice.sample(ids, min(2, len(ids))):
            if self.dice.random() < 0.4:
                self.backend.disable_tasks([task])
                self.tasks.set(task, "disabled")
            elif self.tasks.tasks[task]["status"] == "disabled":
                self.backend.set_status_tasks([task], "next_run_not_scheduled", self.now)
                self.tasks.set(task, "next_run_not_scheduled", self.now)

    # Visits

    def grab_visits(self, visit_type: str, policy: str, count: int) -> None:
        of_one: dict[str, Any] = {}
        if policy == "first_visits_after_listing":
            lister = self.listers["silent"]
            of_one = {"lister": lister.id, "finished": lister.last_listing_finished_at}
        due = self.visits.due(visit_type, policy, self.now, COOLDOWNS, **of_one)
        got = self.backend.grab_next_visits(
            visit_type, count, policy, timestamp=self.now, lister_uuid=of_one.get("lister"), **COOLDOWNS
        )
        # Those that are equally due may come in any order.
        keys = [(it.lister_id, it.url) for it in got]
        assert len(set(keys)) == len(keys)
        assert [due[key] for key in keys] == sorted(due.values())[:count]
        assert got == [self.visits.listed[it.lister_id, it.url, it.visit_type] for it in got]
        self.visits.grabbed(policy, visit_type, got, self.now)
        for url in {it.url for it in got}:
            self.plan_visit(url, visit_type)

    def plan_visit(self, url: str, visit_type: str) -> None:
        """Most are heard of soon, some late, some never."""
        date = self.now + timedelta(seconds=self.dice.uniform(60, 1500))
        outcome = self.forge.visit(url, visit_type, date, outage=self.tick in OUTAGE)
        if (luck := self.dice.random()) < 0.95:
            self.late[self.tick + (0 if luck < 0.85 else self.dice.randrange(9))].append(outcome)
        if luck < 0.3:
            begun = attr.evolve(outcome, date=self.now, status="created", snapshot=None)
            self.late[self.tick].append(begun)

    def record_visits(self) -> None:
        """Outcomes in any order, some of them twice."""
        outcomes = self.late.pop(self.tick, [])
        outcomes += self.dice.sample(outcomes, len(outcomes) // 20)
        self.dice.shuffle(outcomes)
        self.backend.record_visit_outcomes(outcomes)
        changed = self.visits.visited(outcomes)
        self.visits.check(self.backend.origin_visit_stats_get(changed))

    # What it comes to

    def archive(self, limit: int) -> None:
        """Page through what is two hours old, and delete each page before the next one is asked for."""
        before, place, token = self.now - 2 * HOUR, (START - HOUR, 0), None
        while True:
            expected = self.tasks.archive(place, before)
            page = self.backend.filter_task_to_archive(START - HOUR, before, limit, token)
            runs = [self.tasks.runs[row["backend_id"]] for row in page["tasks"]]
            assert runs == expected[:limit]
            for run, row in zip(runs, page["tasks"], strict=True):
                shown, task = self.tasks.shown(run), self.tasks.tasks[run.task]
                assert (
                    row.items() >= {name: shown[name] for name in ("scheduled", "started", "ended", "metadata")}.items()
                )
                assert (row["task_run_id"], row["task_run_status"]) == (run.id, run.status)
                assert (row["task_id"], row["task_status"], row["type"]) == (run.task, task["status"], task["type"])
            self.archived += [run.id for run in runs]
            self.backend.delete_archived_tasks(page["tasks"])
            self.tasks.delete(runs)
            token = page.get("next_page_token")
            assert (token is not None) == (len(expected) > limit)
            if token is None:
                return
            place = runs[-1].place
            self.operate()

    def check_metrics(self) -> None:
        recount = self.visits.metrics()
        updated = self.backend.update_metrics(timestamp=self.now)
        assert self.backend.get_metrics() == updated
        assert {it.last_update for it in updated} == {self.now}
        assert recount == {
            (it.lister_id, it.visit_type): (
                it.origins_known,
                it.origins_enabled,
                it.origins_never_visited,
                it.origins_with_pending_changes,
            )
            for it in updated
        }

    def check_rows(self) -> None:
        assert self.backend.search_tasks() == sorted(self.tasks.tasks.values(), key=lambda task: task["id"])
        runs = self.backend.get_task_runs(list(self.tasks.tasks))
        assert runs == [self.tasks.shown(run) for run in sorted(self.tasks.runs.values(), key=lambda run: run.id)]
        assert len(set(self.archived)) == len(self.archived)
        keys = {(url, visit_type) for _, url, visit_type in self.visits.listed}
        stats = self.backend.origin_visit_stats_get(keys)
        assert {(it.url, it.visit_type) for it in stats} == self.visits.stats.keys()
        self.visits.check(stats)
        assert self.backend.visit_scheduler_queue_position_get() == self.visits.positions
        listed = self.backend.get_listed_origins(enabled=None, limit=10_000).results
        assert {(it.lister_id, it.url, it.visit_type): it for it in listed} == self.visits.listed


def arguments(**kwargs: Any) -> dict[str, Any]:
    return {"args": [], "kwargs": kwargs}


@pytest.mark.timeout(120)
def test_a_day_of_a_forge_ends_as_an_independent_recount_says(backend: SchedulerBackend, engine: Engine) -> None:
    day = Day(backend, dice())

    for tick in range(TICKS):
        day.pass_by()
        if tick % 8 == 7:
            day.check_metrics()
            day.archive(limit=day.dice.choice([3, 7, 50]))

    day.check_rows()
    assert mirrors_that_lie(engine) == []
    assert len({url for _, url, _ in day.visits.listed}) >= 4_900
    assert len(day.archived) > 100
