"""What there is to see: read from the scheduler and its broker as anybody could, through their public doors."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import attrs

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.demo import lister, plan
from swh_sched_runner.demo.plan import Source
from swh_sched_runner.exc import SchedulerException
from swh_sched_runner.model import LastVisitStatus, ListedOrigin, OriginVisitStats, Task

RECENT = 50
HISTORY = 8
NEVER = "never visited"


@attrs.define(slots=True, frozen=True)
class Queue:
    """A queue; ``depth`` None could not be read, ``max_queue_length`` None is no limit."""

    name: str
    depth: int | None
    max_queue_length: int | None


@attrs.define(slots=True, frozen=True)
class Listing:
    """A source and its lister task. ``intervals`` are those that it had lately, the last one its own now."""

    label: str
    origins: int
    runs: Mapping[str, int]
    intervals: Sequence[timedelta]
    next_run: datetime | None


@attrs.define(slots=True, frozen=True)
class Visit:
    """A visit that ended: ``outcome`` is eventful, uneventful, failed or not_found."""

    date: datetime
    origin: str
    outcome: str


@attrs.define(slots=True, frozen=True)
class Picture:
    """All of it. ``origins`` are counted by the status of their last visit, ``visits`` by outcome since the start."""

    queues: Sequence[Queue]
    listings: Sequence[Listing]
    origins: Mapping[str, int]
    visits: Mapping[str, int]
    recent: Sequence[Visit]

    @property
    def runs(self) -> Counter[str]:
        """Runs of all lister tasks by status."""
        return sum((Counter(listing.runs) for listing in self.listings), Counter())


class Observer:
    """Looks again and again, and remembers what it saw: which visits there were, which intervals tasks had."""

    def __init__(self, backend: SchedulerBackend, sources: Sequence[Source], depth: Callable[[str], int]) -> None:
        """``depth`` reads the length of a queue."""
        self._backend = backend
        labels = Counter(source.label for source in sources)
        self._labels = {
            source.address: source.label if labels[source.label] == 1 else source.address for source in sources
        }
        self._depth = depth
        self._intervals: dict[int, deque[timedelta]] = {}
        self._seen: dict[str, OriginVisitStats] | None = None
        self._visits: Counter[str] = Counter()
        self._recent: deque[Visit] = deque(maxlen=RECENT)
        self.seconds = 0.0

    def look(self) -> Picture:
        """Everything as it is now; ``seconds`` then says how long that took, which grows with origins and runs."""
        began = time.monotonic()
        origins = {
            known.instance_name: list(lister.origins_of(self._backend, known))
            for known in self._backend.get_listers()
            if known.name == lister.LISTER and known.instance_name in self._labels
        }
        listed = {origin.url: origin for of_one in origins.values() for origin in of_one}
        self._note_visits(listed)
        seen = self._seen or {}
        statuses = Counter(
            NEVER if (last := seen[url].last_visit_status if url in seen else None) is None else last.value
            for url in listed
        )
        picture = Picture(
            queues=self._queues(),
            listings=self._listings(origins),
            origins=statuses,
            visits=Counter(self._visits),
            recent=list(self._recent),
        )
        self.seconds = time.monotonic() - began
        return picture

    def _queues(self) -> list[Queue]:
        return [
            Queue(row["backend_name"], self._depth_of(row["backend_name"]), row["max_queue_length"])
            for row in self._backend.get_task_types()
        ]

    def _depth_of(self, queue: str) -> int | None:
        try:
            return self._depth(queue)
        except SchedulerException:
            return None

    def _listings(self, origins: Mapping[str, Sequence[ListedOrigin]]) -> list[Listing]:
        tasks = {
            address: task
            for task in self._backend.search_tasks(task_type=plan.LIST_TYPE)
            if (address := task["arguments"]["kwargs"].get("source")) in self._labels and task["status"] != "disabled"
        }
        runs: dict[int, Counter[str]] = {}
        for run in self._backend.get_task_runs(task["id"] for task in tasks.values()):
            runs.setdefault(run["task"], Counter())[run["status"]] += 1
        return [
            Listing(
                label,
                len(origins.get(address, ())),
                runs.get(task["id"], Counter()),
                self._history(task),
                task["next_run"] if task["status"] == "next_run_not_scheduled" else None,
            )
            for address, label in self._labels.items()
            if (task := tasks.get(address)) is not None
        ]

    def _history(self, task: Task) -> list[timedelta]:
        interval = task["current_interval"]
        history = self._intervals.setdefault(task["id"], deque(maxlen=HISTORY))
        if interval is not None and (not history or history[-1] != interval):
            history.append(interval)
        return list(history)

    def _note_visits(self, listed: Mapping[str, ListedOrigin]) -> None:
        """What was visited since the last look. Cooldowns are longer than that, so none is missed."""
        stats = self._backend.origin_visit_stats_get((url, lister.VISIT_TYPE) for url in listed)
        now = {entry.url: entry for entry in stats if entry.last_visit is not None}
        if self._seen is not None:
            visits = [
                Visit(entry.last_visit, self._name(entry.url), outcome)
                for entry in now.values()
                if entry.last_visit and (outcome := _outcome(self._seen.get(entry.url), entry))
            ]
            self._visits.update(visit.outcome for visit in visits)
            self._recent.extendleft(sorted(visits, key=lambda visit: visit.date))
        self._seen = now

    def _name(self, url: str) -> str:
        """A short name: the source's, and where in it the origin is."""
        for address, label in self._labels.items():
            place = url.removeprefix(address if "://" in address else Path(address).as_uri())
            if place != url and place[:1] in ("", "/"):
                return f"{label}{place}"
        return url


def _outcome(before: OriginVisitStats | None, after: OriginVisitStats) -> str | None:
    """How the visit between two looks ended, None if there was none."""
    if before is not None and before.last_visit == after.last_visit:
        return None
    match after.last_visit_status:
        case LastVisitStatus.successful:
            return "uneventful" if before is not None and before.last_snapshot == after.last_snapshot else "eventful"
        case LastVisitStatus.failed:
            return "failed"
        case LastVisitStatus.not_found:
            return "not_found"
        case None:
            return None
