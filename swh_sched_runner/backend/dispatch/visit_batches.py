"""Batches of visits: origins taken by policy, their messages in the outbox."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import TypedDict

import attrs
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
    """Up to ``count`` origins of a visit type: which policies take which share, under which cooldowns."""

    visit_type: str
    task_type: str
    count: int
    policies: Mapping[str, float]
    cooldowns: Cooldowns

    @classmethod
    def of(cls, visit_type: str, task_type: str, count: int, settings: VisitSettings) -> VisitPlan:
        """The plan that the configuration gives."""
        cooldowns = Cooldowns(
            absolute_cooldown=_duration(settings.absolute_cooldown_seconds),
            scheduled_cooldown=_duration(settings.scheduled_cooldown_seconds),
            failed_cooldown=_duration(settings.failed_cooldown_seconds),
            not_found_cooldown=_duration(settings.not_found_cooldown_seconds),
        )
        return cls(visit_type, task_type, count, settings.policies, cooldowns)


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def queue_of(conn: Connection, task_type: str) -> tuple[str, int | None] | None:
    """Queue and max_queue_length of the visits that tasks of this type make; None if there is no such type."""
    found = conn.execute(_sql.visit_queue, {"task_type": task_type}).first()
    return None if found is None else (found.backend_name, found.max_queue_length)


def open_batch(conn: Connection, session_id: int, queue: str, plan: VisitPlan) -> int | None:
    """Take origins by the plan and write a batch that messages a visit of each; its id, None if there are none."""
    if queue in ready.paused_queues(conn):
        return None
    allowed = ready.acquire_quota(conn, plan.task_type, plan.count, runs=False)
    if allowed.tasks <= 0:
        return None
    taken = _grab_visits(conn, attrs.evolve(plan, count=allowed.tasks))
    messages = [visit for origin in taken if (visit := _visit(origin, plan.task_type))]
    if not messages:
        return None
    ready.consume_quota(conn, plan.task_type, allowed, len(messages))
    binds = {"session_id": session_id, "queue": queue, "visits": f"[{','.join(messages)}]"}
    batch: int = conn.execute(_sql.open_visit_batch, binds).scalar_one()
    return batch


def _visit(origin: ListedOrigin, task_type: str) -> str | None:
    """The message of a visit, as JSON; None where extra arguments that others wrote make no message.

    Such an origin was taken all the same: it comes again after its cooldown, and keeps no other one waiting.
    """
    try:
        return json.dumps(
            {
                "id": str(uuid.uuid4()),
                "task_type": task_type,
                "url": origin.url,
                "visit_type": origin.visit_type,
                "kwargs": {"url": origin.url, **origin.extra_loader_arguments},
            }
        )
    except (TypeError, ValueError, RecursionError):
        log.warning(
            "origin left out, its extra_loader_arguments are no object", url=origin.url, lister=origin.lister_id
        )
        return None


def _grab_visits(conn: Connection, plan: VisitPlan) -> list[ListedOrigin]:
    """Each policy takes its share; what one leaves, the next ones may take."""
    grabbed: dict[tuple[str, str], ListedOrigin] = {}
    weights = sum(plan.policies.values())
    for policy, weight in plan.policies.items():
        share = round((plan.count - len(grabbed)) * weight / weights)
        weights -= weight
        taken = policies.grab_next(conn, plan.visit_type, share, policy, **plan.cooldowns) if share else []
        grabbed |= {(origin.url, origin.visit_type): origin for origin in taken}  # listed twice, visited once
    return list(grabbed.values())
