"""Watches workers' lives, and ends those that are over."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import attrs
import structlog

from swh_sched_runner.backend.workers.watched import WatchedLife, WatchedLives
from swh_sched_runner.config import RescuerSettings
from swh_sched_runner.services.rescuer.lives import EndedBy, ended_by, is_away
from swh_sched_runner.services.rescuer.presence import Presence
from swh_sched_runner.services.service import Heartbeat

log = structlog.get_logger(__name__)


class LifeWatch:
    """What the looks at workers' connections showed so far; as long as the connection that looks lasts."""

    def __init__(
        self,
        lives: WatchedLives,
        is_connected: Callable[[str], bool | None],
        settings: RescuerSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lives = lives
        self._is_connected = is_connected
        self._settings = settings
        self._clock = clock
        self._presence = Presence()

    @property
    def anybody_absent(self) -> bool:
        """Whether a life that is not over is not connected, so that a longer watch may tell more."""
        return self._presence.anybody_absent

    def look(self, heartbeat: Heartbeat, ids: Collection[int] = (), *, dry_run: bool = False) -> dict[int, WatchedLife]:
        """The lives by id that are not over, and those of ``ids``, after the look; it may have ended some.

        With ``dry_run`` those are ended in the answer alone. Raises ``BrokerUnavailable``: forget the watch then.
        """
        known = self._lives.read(ids)
        living = [life for life in known if life.ended_by is None]

        def is_connected(hostname: str) -> bool | None:
            heartbeat.beat()
            return self._is_connected(hostname)

        now = self._clock()
        signs = [(life.id, life.hostname, life.silent_seconds) for life in living]
        if not self._presence.look(signs, is_connected, now):
            log.warning("most workers vanished at once: their lives go on for now", workers=len(living))
        found: dict[int, EndedBy] = {}
        for life in living:
            reason = ended_by(life, self._presence.absence(life.id), self._settings, now)
            if reason is not None:
                found[life.id] = reason
        over = [life for life in living if life.id in found]
        states = {life.id: life.state for life in over} if dry_run else self._lives.end(over, dict(found))
        for life in over:
            if life.id in states and not dry_run:
                log.warning("life of a worker ended", worker=life.hostname, pid=life.pid, ended_by=found[life.id])
        return {
            life.id: attrs.evolve(life, ended_by=found[life.id], ended_seconds=0.0, state=states[life.id])
            if life.id in states
            else attrs.evolve(life, is_away=is_away(life, self._presence.absence(life.id), self._settings, now))
            for life in known
        }
