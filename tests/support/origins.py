"""Listers, origins and statistics of visits for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.model import ListedOrigin, VisitOutcome

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

_MIRRORS_THAT_LIE = text(
    """
    select lo.url
    from listed_origins lo
      left join origin_visit_stats s on s.url = lo.url and s.visit_type = lo.visit_type
    where s.url is null
      or (lo.visit_loaded, lo.visit_successful, lo.visit_last_successful, lo.visit_queue_position) is distinct from
         (s.last_snapshot is not null, s.last_visit_status is not distinct from 'successful',
          s.last_successful, s.next_visit_queue_position)
    """
)


class Steady(Random):
    """Randomness that always lands in the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def url_of(number: int | str) -> str:
    return f"https://forge.example/{number}"


def an_origin(lister_id: UUID | None, number: int | str = 0, **more: Any) -> ListedOrigin:
    """An origin of the lister, another one for each number."""
    assert lister_id is not None
    given: dict[str, Any] = {"lister_id": lister_id, "url": url_of(number), "visit_type": "git"}
    return ListedOrigin(**(given | more))


def an_outcome(number: int | str = 0, **more: Any) -> VisitOutcome:
    """A visit that found something, at NOW."""
    given: dict[str, Any] = {
        "url": url_of(number),
        "visit_type": "git",
        "date": NOW,
        "status": "full",
        "snapshot": b"s1",
    }
    return VisitOutcome(**(given | more))


def a_lister(backend: SchedulerBackend, name: str = "github", instance_name: str = "") -> UUID:
    """The id of a lister that is there."""
    lister_id = backend.get_or_create_lister(name, instance_name).id
    assert lister_id is not None
    return lister_id


def mirrors_that_lie(engine: Engine) -> list[str]:
    """Urls of listed origins whose mirror of their statistics is wrong, or that have none."""
    with engine.connect() as conn:
        return list(conn.execute(_MIRRORS_THAT_LIE).scalars())
