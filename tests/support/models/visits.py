"""The rules of origins and visits a second time, in plain Python: what tests compare long histories with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from swh_sched_runner.model import ListedOrigin, OriginVisitStats, VisitOutcome

Key = tuple[str, str]


@dataclass
class Stats:
    """Statistics of an origin; the random place in the queue is known by its bounds until it was read."""

    last_successful: datetime | None = None
    last_visit: datetime | None = None
    last_visit_status: str | None = None
    last_scheduled: datetime | None = None
    last_snapshot: bytes | None = None
    offset: int = 4
    successive: int = 1
    place: tuple[float, float] | None = None


DAYS = (1, 1, 2, 2, 2, 4, 16, 64, 256, 1024, 4096)
SELECTS: dict[str, Callable[[ListedOrigin, Stats], bool]] = {
    "oldest_scheduled_first": lambda o, s: True,
    "never_visited_oldest_update_first": lambda o, s: s.last_snapshot is None and o.last_update is not None,
    "already_visited_order_by_lag": lambda o, s: bool(
        s.last_snapshot and o.last_update and s.last_successful and o.last_update > s.last_successful
    ),
    "origins_without_last_update": lambda o, s: o.last_update is None,
    "stop_after_success": lambda o, s: s.last_visit_status != "successful",
}
ORDER: dict[str, Callable[[ListedOrigin, Stats], Any]] = {
    "oldest_scheduled_first": lambda o, s: (s.last_scheduled is not None, s.last_scheduled),
    "first_visits_after_listing": lambda o, s: (s.last_scheduled is not None, s.last_scheduled),
    "never_visited_oldest_update_first": lambda o, s: o.last_update,
    "already_visited_order_by_lag": lambda o, s: s.last_successful - o.last_update,  # type: ignore[operator]
    "origins_without_last_update": lambda o, s: (s.place is not None, s.place, o.first_seen),
    "stop_after_success": lambda o, s: (o.last_update is None, o.last_update, o.first_seen),
}


class Visits:
    """Listed origins and what their visits found."""

    def __init__(self) -> None:
        self.listed: dict[tuple[UUID, str, str], ListedOrigin] = {}
        self.stats: defaultdict[Key, Stats] = defaultdict(Stats)
        self.positions: dict[str, int] = {}

    def list(self, given: Sequence[ListedOrigin], got: Sequence[ListedOrigin]) -> None:
        """Check what ``record_listed_origins`` answered."""
        assert [_key(it) for it in got] == [_key(it) for it in given]
        for wanted, row in zip(given, got, strict=True):
            assert (row.last_update, row.enabled) == (wanted.last_update, wanted.enabled)
            assert row.extra_loader_arguments == wanted.extra_loader_arguments
            old = self.listed.get(_key(row))
            assert old is None or row.first_seen == old.first_seen
            self.listed[_key(row)] = row

    def due(
        self,
        visit_type: str,
        policy: str,
        now: datetime,
        cooldowns: dict[str, timedelta],
        lister: UUID | None = None,
        finished: datetime | None = None,
    ) -> dict[tuple[UUID, str], Any]:
        """What a grab may take, with its place in the policy's order."""
        selects = SELECTS.get(policy) or (
            lambda o, s: s.last_scheduled is None or (finished is not None and s.last_scheduled < finished)
        )
        due = {}
        for origin in self.listed.values():
            if origin.enabled and origin.visit_type == visit_type and lister in (None, origin.lister_id):
                stats = self.stats.get((origin.url, visit_type)) or Stats()
                if selects(origin, stats) and _is_due(stats, now, cooldowns):
                    due[origin.lister_id, origin.url] = ORDER[policy](origin, stats)
        return due

    def grabbed(self, policy: str, visit_type: str, got: Sequence[ListedOrigin], now: datetime) -> None:
        """What a grab writes."""
        places = [self.stats[origin.url, visit_type].place for origin in got]
        for origin in got:
            stats = self.stats[origin.url, visit_type]
            stats.last_scheduled = max(stats.last_scheduled or now, now)
        if policy == "origins_without_last_update":
            reached = max((int(place[0]) for place in places if place), default=0)
            self.positions[visit_type] = max(self.positions.get(visit_type, 0), reached)

    def visited(self, outcomes: Iterable[VisitOutcome]) -> set[Key]:
        """What outcomes do, given in one call; answers whose statistics changed."""
        changed = set()
        for outcome in sorted(outcomes, key=lambda it: it.date):
            key = outcome.url, outcome.visit_type
            last = self.stats[key].last_visit
            if outcome.status not in ("created", "ongoing") and (last is None or last < outcome.date):
                self._visited(self.stats[key], outcome)
                changed.add(key)
                if self.stats[key].last_visit_status != "successful" and self.stats[key].successive >= 3:
                    for name, origin in self.listed.items():
                        if name[1:] == key:
                            origin.enabled = False
        return changed

    def _visited(self, stats: Stats, outcome: VisitOutcome) -> None:
        loaded = outcome.status in ("full", "partial") and outcome.snapshot is not None
        status = "successful" if loaded else "not_found" if outcome.status == "not_found" else "failed"
        eventful = loaded and outcome.snapshot != stats.last_snapshot
        if stats.last_visit is not None:
            stats.offset = max(0, stats.offset - 2) if eventful else min(10, stats.offset + 1)
        stats.successive = stats.successive + 1 if status == stats.last_visit_status else 1
        start = self.positions.get(outcome.visit_type, 0)
        low, high = stats.place or (start, start)
        ahead = DAYS[stats.offset] * 86_400
        stats.place = low + 0.9 * ahead - 1, high + 1.1 * ahead + 1
        stats.last_visit, stats.last_visit_status = outcome.date, status
        if loaded:
            stats.last_successful, stats.last_snapshot = outcome.date, outcome.snapshot

    def check(self, got: Iterable[OriginVisitStats]) -> None:
        """Compare statistics as they were read; from now on their places in the queue are known."""
        for row in got:
            stats = self.stats[row.url, row.visit_type]
            status = row.last_visit_status and row.last_visit_status.value
            read = Stats(row.last_successful, row.last_visit, status, row.last_scheduled, row.last_snapshot)
            read.offset, read.successive, read.place = row.next_position_offset, row.successive_visits, stats.place
            assert read == stats, row
            place = row.next_visit_queue_position
            if place is None or stats.place is None:
                assert (place, stats.place) == (None, None), row
            else:
                assert stats.place[0] <= place <= stats.place[1], (row, stats.place)
                stats.place = place, place

    def metrics(self) -> dict[tuple[UUID, str], tuple[int, int, int, int]]:
        """Counts by lister and visit type: known, enabled, never visited, with pending changes."""
        counts: defaultdict[tuple[UUID, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for origin in self.listed.values():
            stats = self.stats.get((origin.url, origin.visit_type)) or Stats()
            changed = stats.last_successful and origin.last_update and origin.last_update > stats.last_successful
            told = (True, True, stats.last_snapshot is None, bool(changed))
            for n, counted in enumerate(told):
                counts[origin.lister_id, origin.visit_type][n] += counted and (origin.enabled or n == 0)
        return {key: tuple(values) for key, values in counts.items()}  # type: ignore[misc]


def _is_due(stats: Stats, now: datetime, cooldowns: dict[str, timedelta]) -> bool:
    scheduled, visited = stats.last_scheduled, stats.last_visit
    if scheduled is not None:
        if scheduled >= now - cooldowns["absolute_cooldown"]:
            return False
        since = now - cooldowns["scheduled_cooldown"]
        if scheduled >= (since if visited is None else max(since, visited)):
            return False
    waits = stats.last_visit_status in ("failed", "not_found") and visited is not None
    return not waits or visited < now - cooldowns[f"{stats.last_visit_status}_cooldown"]  # type: ignore[operator]


def _key(origin: ListedOrigin) -> tuple[UUID, str, str]:
    return origin.lister_id, origin.url, origin.visit_type
