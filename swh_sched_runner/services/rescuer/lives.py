"""Whether a life is over: rule 2 of docs/explanation/lost-runs.md."""

from __future__ import annotations

from typing import Literal

from swh_sched_runner.backend.workers.lives import Life
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.services.rescuer.presence import Absence

EndedBy = Literal["succeeded", "closed", "left", "silent", "forgotten"]

# RabbitMQ proposes this heartbeat; the smaller of the two proposals is used.
BROKER_HEARTBEAT_SECONDS = 60.0
# A heartbeat may have waited for so long in its queue, where it expires.
HEARTBEAT_TTL_SECONDS = 10.0


def over(life: Life, absence: Absence | None, settings: RescuerSettings, now: float) -> EndedBy | None:
    """Why a life is over; None if it is not, or nobody can tell. ``now`` is by ``time.monotonic``."""
    if life.ended_by is not None:
        return life.ended_by
    if life.is_leaving:
        return "left" if _has_left(life, settings) else None
    if absence is None or now - absence.since < settings.away_seconds:
        return None
    if _was_closed(life, absence):
        return "closed"
    return "silent" if _is_silent(life, settings) else None


def _has_left(life: Life, settings: RescuerSettings) -> bool:
    """2c: as many runs as it was executing when it said goodbye have ended by its own word, or it took too long."""
    if life.offline_active is not None and life.left_runs >= life.offline_active:
        return True
    return life.left_seconds is not None and life.left_seconds >= settings.leaving_seconds


def _was_closed(life: Life, absence: Absence) -> bool:
    """2b: its connection ended too soon after its last sign to have timed out, so it was closed."""
    if absence.with_most or absence.silent_seconds is None:
        return False
    heartbeat = min(life.heartbeat or BROKER_HEARTBEAT_SECONDS, BROKER_HEARTBEAT_SECONDS)
    return absence.silent_seconds + HEARTBEAT_TTL_SECONDS < 2 * heartbeat


def _is_silent(life: Life, settings: RescuerSettings) -> bool:
    """2d: a worker whose pool lets it speak while it works has said nothing for long."""
    return life.blocks is False and life.silent_seconds is not None and life.silent_seconds >= settings.silent_seconds
