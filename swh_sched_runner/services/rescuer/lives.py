"""Whether a life is over: rule 2 of docs/explanation/lost-runs.md."""

from __future__ import annotations

from typing import Literal

from swh_sched_runner.backend.workers.watched import WatchedLife
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.services.rescuer.presence import Absence

EndedBy = Literal["closed", "left", "silent"]

# RabbitMQ proposes this heartbeat; the smaller of the two proposals is used.
BROKER_HEARTBEAT_SECONDS = 60.0
# A heartbeat may have waited for so long in its queue, where it expires.
HEARTBEAT_TTL_SECONDS = 10.0
# So long a life that another one of its name succeeded may live after all: heartbeats on their way.
SUCCEEDED_SECONDS = 30.0


def is_over(life: WatchedLife) -> bool:
    """Whether a life that has ended may be acted upon."""
    if life.ended_by is None:
        return False
    return life.ended_by != "succeeded" or (life.ended_seconds or 0.0) >= SUCCEEDED_SECONDS


def ended_by(life: WatchedLife, absence: Absence | None, settings: RescuerSettings, now: float) -> EndedBy | None:
    """Why a life that has not ended is over; None if it is not, or nobody can tell. ``now`` by ``time.monotonic``."""
    if life.is_leaving:
        return "left" if _has_left(life, settings) else None
    if life.blocks is None or absence is None:  # without remote control its pidbox proves nothing
        return None
    away_seconds = now - absence.since
    if away_seconds < settings.away_seconds or _signed_since(life, away_seconds):
        return None
    if _was_closed(life, absence):
        return "closed"
    return "silent" if _is_silent(life, settings) else None


def _has_left(life: WatchedLife, settings: RescuerSettings) -> bool:
    """2c: all that it was executing when it said so, or began since, has ended, or it takes too long."""
    return life.left_running == 0 or (life.left_seconds is not None and life.left_seconds >= settings.leaving_seconds)


def _signed_since(life: WatchedLife, away_seconds: float) -> bool:
    """Whether a heartbeat left it after its pidbox was missed: it lives, connected otherwise."""
    return life.silent_seconds is not None and life.silent_seconds + HEARTBEAT_TTL_SECONDS < away_seconds


def _was_closed(life: WatchedLife, absence: Absence) -> bool:
    """2b: its connection ended too soon after its last sign to have timed out, so it was closed."""
    if absence.with_most or absence.silent_seconds is None:
        return False
    heartbeat = min(life.heartbeat or BROKER_HEARTBEAT_SECONDS, BROKER_HEARTBEAT_SECONDS)
    return absence.silent_seconds + HEARTBEAT_TTL_SECONDS < 2 * heartbeat


def _is_silent(life: WatchedLife, settings: RescuerSettings) -> bool:
    """2d: a worker whose pool lets it speak while it works has said nothing for long."""
    return life.blocks is False and life.silent_seconds is not None and life.silent_seconds >= settings.silent_seconds
