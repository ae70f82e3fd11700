"""Which services and workers live, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

import attrs

from swh_sched_runner.backend.inspection import status as database_side
from swh_sched_runner.backend.workers.lives import LifeListed
from swh_sched_runner.backend.workers.registry import Workers
from swh_sched_runner.db.engine import Database
from swh_sched_runner.model import Timestamp

Kind = Literal["runner", "listener", "visit scheduler", "rescuer", "worker"]

# Heartbeats come every two seconds, and the listener records them within one.
SIGN_AGE = timedelta(seconds=60)
_KINDS: dict[str, Kind] = {
    "runner": "runner",
    "listener": "listener",
    "visits": "visit scheduler",
    "rescuer": "rescuer",
}
_WITHOUT: dict[Kind, str] = {
    "runner": "due tasks wait in the database",
    "listener": "ends of runs wait in the broker",
    "visit scheduler": "no visits are dispatched",
    "rescuer": "lost runs stay in flight",
    "worker": "messages wait in the broker",
}


@attrs.define(slots=True, frozen=True)
class Alive:
    """A service or worker that lives. Of a worker ``host`` is Celery's name, and ``pid`` may be unknown."""

    service: Kind
    host: str
    pid: int | None
    since: Timestamp

    @property
    def where(self) -> str:
        """host:pid."""
        return self.host if self.pid is None else f"{self.host}:{self.pid}"


@attrs.define(slots=True, frozen=True)
class Services:
    """What lives, and in words what is missing and what follows from that."""

    alive: list[Alive]
    missing: list[str]


def read_services(database: Database, *, visits: bool) -> Services:
    """What lives. With ``visits`` a visit scheduler is needed as well.

    Workers show signs of life through a listener: without one nothing is known of them.
    """
    found = [
        Alive(_KINDS[row.service], row.host, row.pid, row.since) for row in database.run(database_side.living_services)
    ]
    found.sort(key=lambda alive: list(_WITHOUT).index(alive.service))
    kinds = {alive.service for alive in found}
    needed = (kind for kind in _KINDS.values() if visits or kind != "visit scheduler")
    missing = [f"no {kind} is alive: {_WITHOUT[kind]}" for kind in needed if kind not in kinds]
    workers = _workers(Workers(database).list(), database.run(database_side.now))
    if workers:
        found += workers
    elif "listener" in kinds:
        missing.append(f"no worker is alive: {_WITHOUT['worker']}")
    else:
        missing.append("no worker is known to be alive: a listener records their signs of life")
    return Services(found, missing)


def _workers(lives: Iterable[LifeListed], now: datetime) -> list[Alive]:
    """Lives with a sign lately. A pool that a task blocks gives none while it executes."""
    return [
        Alive("worker", life.hostname, life.pid, life.online or life.began)
        for life in lives
        if now - (life.last_sign or life.first_sign) < SIGN_AGE or (life.blocks and life.executing)
    ]
