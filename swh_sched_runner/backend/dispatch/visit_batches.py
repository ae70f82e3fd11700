"""Batches of visits: origins taken by policy, their messages in the outbox."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypedDict

import attrs
import msgspec
import structlog
from sqlalchemy import Connection

from swh_sched_runner.backend.dispatch import ready
from swh_sched_runner.backend.origins import policies
from swh_sched_runner.config import VisitSettings
from swh_sched_runner.db.queries import Queries
from swh_sched_runner.model import ListedOrigin

_sql = Queries("dispatch/outbox")
log = structlog.get_logger(__name__)


class Cooldowns(TypedDict):
    """When an origin is left alone; None is off."""

    absolute_cooldown: timedelta | None
    scheduled_cooldown: timedelta | None
    failed_cooldown: timedelta | None
    not_found_cooldown: timedelta | None


@attrs.define(slots=True, frozen=True)
class VisitPlan:
    """Up to ``most`` origins of a visit type at a time: which policies take which share, under which cooldowns."""

    visit_type: str
    task_type: str
    most: int
    policies: Mapping[str, float]
    cooldowns: Cooldowns

    @classmethod
    def of(cls, visit_type: str, task_type: str, settings: VisitSettings) -> VisitPlan:
        """The plan that the configuration gives."""
        cooldowns = Cooldowns(
            absolute_cooldown=_duration(settings.absolute_cooldown_seconds),
            scheduled_cooldown=_duration(settings.scheduled_cooldown_seconds),
            failed_cooldown=_duration(settings.failed_cooldown_seconds),
            not_found_cooldown=_duration(settings.not_found_cooldown_seconds),
        )
        return cls(visit_type, task_type, settings.batch_size, settings.policies, cooldowns)


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


class Visit(msgspec.Struct, frozen=True, gc=False):
    """The message of a visit, as the outbox has it."""

    id: str
    task_type: str
    url: str
    visit_type: str
    kwargs: dict[str, Any]


@attrs.define(slots=True, frozen=True)
class VisitBatch:
    """A batch of visits that was written to the outbox; messages of ``backend_name``."""

    id: int
    backend_name: str
    max_queue_length: int | None
    visits: list[Visit]


def queue_of(conn: Connection, task_type: str) -> tuple[str, int | None] | None:
    """Queue and max_queue_length of the visits that tasks of this type make; None if there is no such type."""
    found = conn.execute(_sql.visit_queue, {"task_type": task_type}).first()
    return None if found is None else (found.backend_name, found.max_queue_length)


def open_batch(conn: Connection, session_id: int, queue: str, plan: VisitPlan, most: int) -> VisitBatch | None:
    """Take origins by the plan and write a batch with a visit of each; None if there are none."""
    target = queue_of(conn, plan.task_type)
    if target is None or queue in ready.paused_queues(conn):
        return None
    quota = ready.acquire_quota(conn, plan.task_type, min(most, plan.most), runs=False)
    if quota.tasks <= 0:
        return None
    visits, written = [], []
    for origin in _grab_visits(conn, plan, quota.tasks):
        visit = Visit(str(uuid.uuid4()), plan.task_type, origin.url, origin.visit_type, _kwargs(origin))
        if (text := _as_json(visit, origin)) is not None:
            visits.append(visit)
            written.append(text)
    if not visits:
        return None
    ready.consume_quota(conn, plan.task_type, quota, len(visits))
    binds = {"session_id": session_id, "queue": queue, "visits": f"[{','.join(written)}]"}
    batch: int = conn.execute(_sql.open_visit_batch, binds).scalar_one()
    return VisitBatch(batch, *target, visits)


def _kwargs(origin: ListedOrigin) -> dict[str, Any]:
    """The arguments of a visit; empty where extra arguments that others wrote are no object."""
    with suppress(TypeError):
        return {"url": origin.url, **origin.extra_loader_arguments}
    return {}


def _as_json(visit: Visit, origin: ListedOrigin) -> str | None:
    """A visit as JSON; None where extra arguments that others wrote make no message.

    Such an origin was taken all the same: it comes again after its cooldown, and keeps no other one waiting.
    """
    if visit.kwargs:
        with suppress(TypeError, ValueError, RecursionError):
            return json.dumps(msgspec.structs.asdict(visit))
    log.warning("origin skipped, its extra_loader_arguments are not an object", url=origin.url, lister=origin.lister_id)
    return None


def _grab_visits(conn: Connection, plan: VisitPlan, count: int) -> list[ListedOrigin]:
    """Each policy takes its share; what one leaves, the next ones may take."""
    grabbed: dict[tuple[str, str], ListedOrigin] = {}
    weights = sum(plan.policies.values())
    for policy, weight in plan.policies.items():
        share = round((count - len(grabbed)) * weight / weights)
        weights -= weight
        taken = policies.grab_next(conn, plan.visit_type, share, policy, **plan.cooldowns) if share else []
        grabbed |= {(origin.url, origin.visit_type): origin for origin in taken}  # listed twice, visited once
    return list(grabbed.values())
