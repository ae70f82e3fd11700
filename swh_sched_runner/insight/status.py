"""Where everything stands: queues, what throttles task types, what is due, in flight and in the outbox."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import attrs

from swh_sched_runner.backend.dispatch import limits
from swh_sched_runner.backend.inspection import status as database_side
from swh_sched_runner.backend.inspection.status import Flow, Overview
from swh_sched_runner.broker.queues import Queues
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.insight.queues import QueueList, from_database, with_depths
from swh_sched_runner.insight.services import Services, read_services
from swh_sched_runner.model import TypeControls

__all__ = ["Flow", "Overview", "Status", "read_flow", "read_status"]


@attrs.define(slots=True, frozen=True)
class Status:
    """Where everything stands. ``throttled`` are the task types that are paused, or limited in flight or in rate."""

    time: datetime
    services: Services
    queues: QueueList
    throttled: list[TypeControls]
    overview: Overview


def read_status(
    database: Database, open_queues: Callable[[], Queues], settings: BrokerSettings, *, visits: bool = False
) -> Status:
    """Where everything stands. ``open_queues`` may raise ``BrokerUnavailable`` or ``NotRunning``: no depths then.

    With ``visits`` a visit scheduler is missing where none lives.
    """
    services = read_services(database, visits=visits)
    overview, standing = database.run(database_side.overview), database.run(limits.standing)
    queues = with_depths(from_database(standing, overview.backlog, settings.priority_queue), open_queues)
    throttled = [row for row in standing.controls.task_types if _is_throttled(row)]
    return Status(datetime.now(UTC), services, queues, throttled, overview)


def read_flow(database: Database, limit: timedelta) -> Flow:
    """What is on its way, for monitoring. A statement that takes longer than ``limit`` is ended."""
    return database.run(database_side.flow, limit)


def _is_throttled(row: TypeControls) -> bool:
    return row.pause is not None or row.max_in_flight is not None or row.rate_limit is not None
