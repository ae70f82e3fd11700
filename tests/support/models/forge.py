"""A small forge that lives by a clock of its own: repositories appear, change, break and vanish."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

from swh_sched_runner.model import VisitOutcome

START = datetime(2026, 3, 1, tzinfo=UTC)
SIZE = 5_000
SIZE_AT_FIRST = 4_700
# Two listings, which share some repositories; only the first one tells when a repository changed.
TELLING, SILENT = range(3_000), range(2_600, SIZE)


@dataclass
class Repository:
    """A repository; ``changed`` is when its content last did, ``broken`` ones can't be loaded."""

    number: int
    changed: datetime
    broken: bool
    version: int = 0
    created: bool = False
    deleted: bool = False

    @property
    def url(self) -> str:
        return f"https://forge.example/{self.number:04}"

    @property
    def visit_type(self) -> str:
        return "hg" if self.number % 10 == 7 else "git"

    @property
    def snapshot(self) -> bytes:
        return f"{self.number}@{self.version}".encode()


class Forge:
    """What is really there, and what visits of it find."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self.repositories = [
            Repository(number, START - timedelta(days=dice.random() * 300), broken=dice.random() < 0.03)
            for number in range(SIZE)
        ]
        self._to_come = dice.sample(self.repositories, SIZE)
        self._create(SIZE_AT_FIRST)
        self._by_key = {(it.url, it.visit_type): it for it in self.repositories}

    def live(self, now: datetime, seconds: float, share: float) -> None:
        """Until ``now``: changes, new repositories (``share`` of those to come), deletions."""
        self._create(round(share * (SIZE - SIZE_AT_FIRST)))
        there = [it for it in self.repositories if it.created and not it.deleted]
        for it in self._dice.sample(there, 150):
            it.version += 1
            it.changed = now - timedelta(seconds=self._dice.random() * seconds)
        for it in self._dice.sample(there, 3):
            it.deleted = True

    def finish(self) -> None:
        """Create whatever is still to come."""
        self._create(len(self._to_come))

    def listing(self, numbers: range) -> Iterator[Repository]:
        """What a listing shows now."""
        return (it for it in map(self.repositories.__getitem__, numbers) if it.created and not it.deleted)

    def visit(self, url: str, visit_type: str, date: datetime, outage: bool) -> VisitOutcome:
        """How a visit at that time goes; most fail while there is an outage."""
        it = self._by_key[url, visit_type]
        luck = self._dice.random()
        if it.deleted:
            status = "not_found"
        elif it.broken or luck < 0.03 or (outage and luck < 0.6):
            status = "failed"
        else:
            status = "partial" if luck < 0.06 else "full"
        # Now and then a loader says that all went well and names no snapshot.
        found = status in ("full", "partial") and luck < 0.99
        return VisitOutcome(url, visit_type, date, status, it.snapshot if found else None)

    def _create(self, count: int) -> None:
        for _ in range(min(count, len(self._to_come))):
            self._to_come.pop().created = True
