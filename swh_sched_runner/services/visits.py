"""The visit scheduler: picks the origins to visit next, by policy, and dispatches their visits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from swh_sched_runner.backend.dispatch import Dispatch, VisitPlan
from swh_sched_runner.broker.publish import Filler, Publisher
from swh_sched_runner.config import VisitSettings
from swh_sched_runner.services.sender import Sender
from swh_sched_runner.services.service import Pulse

log = structlog.get_logger(__name__)


class VisitScheduler:
    """Sends again what is still open, then fills the loaders' queues with visits."""

    name = "visits"

    def __init__(
        self,
        dispatch: Dispatch,
        open_publisher: Callable[[int], Publisher],
        settings: Mapping[str, VisitSettings],
    ) -> None:
        self.period_seconds = min((visits.period_seconds for visits in settings.values()), default=60.0)
        self._dispatch = dispatch
        self._sender = Sender(dispatch, open_publisher)
        self._settings = settings
        self._next = dict.fromkeys(settings, 0.0)
        self._missing: set[str] = set()

    def run_once(self, pulse: Pulse) -> bool:
        """One round over the visit types whose period has passed."""
        self._sender.check()
        _, open_queues = self._sender.resume(pulse)
        sent = 0
        for visit_type, settings in self._settings.items():
            if pulse.stopping or time.monotonic() < self._next[visit_type]:
                continue
            self._next[visit_type] = time.monotonic() + settings.period_seconds
            sent += self._fill(visit_type, settings, open_queues, pulse)
        if sent:
            pulse.beat(f"dispatched {sent} visits")
        return False

    def close(self) -> None:
        """Give the identity up."""
        self._sender.close()

    def _fill(self, visit_type: str, settings: VisitSettings, open_queues: set[str], pulse: Pulse) -> int:
        name = settings.task_type or f"load-{visit_type}"
        target = self._dispatch.visit_queue(name)
        if target is None:
            if name not in self._missing:
                log.warning("visits wait for their task type", visit_type=visit_type, task_type=name)
                self._missing.add(name)
            return 0
        self._missing.discard(name)
        queue, bound = target
        if queue in open_queues:
            return 0

        def work(filler: Filler, room: int | None) -> int:
            started = time.monotonic()
            count = settings.batch_size if room is None else min(room, settings.batch_size)
            plan = VisitPlan.of(visit_type, name, count, settings)
            batch = self._dispatch.open_visit_batch(self._sender.owner, queue, plan) if count else None
            promised = None if batch is None else self._dispatch.read_batch(self._sender.owner, batch)
            visits = 0 if promised is None else self._sender.send(filler, promised, count)
            if visits:
                log.info(
                    "dispatched visits",
                    visits=visits,
                    visit_type=visit_type,
                    queue=queue,
                    depth="unbounded" if bound is None or room is None else f"{bound - room + visits}/{bound}",
                    ms=round(1000 * (time.monotonic() - started)),
                )
            return visits

        return self._sender.fill(queue, bound, pulse, work) or 0
