"""The visit scheduler: picks the origins to visit next, by policy, and dispatches their visits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.visit_batches import VisitPlan
from swh_sched_runner.broker.publish import Publisher
from swh_sched_runner.config import VisitSettings
from swh_sched_runner.exc import StatementRefused
from swh_sched_runner.services.dispatch.fill import Fill
from swh_sched_runner.services.dispatch.sender import MAINTAIN_SECONDS, Sender
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat

log = structlog.get_logger(__name__)


class VisitScheduler:
    """Sends again what is still open, then fills the loaders' queues with visits."""

    name = "visits"

    def __init__(
        self,
        dispatch: Dispatch,
        open_publisher: Callable[[int], Publisher],
        settings: Mapping[str, VisitSettings],
        instruments: Instruments | None = None,
    ) -> None:
        self._dispatch = dispatch
        self._instruments = instruments or Instruments()
        self._sender = Sender(dispatch, open_publisher, self.name, self._instruments)
        self._settings = settings
        self._next = dict.fromkeys(settings, 0.0)
        self._missing: set[str] = set()
        self._refused: dict[str, str] = {}

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """One round over the visit types whose period has passed."""
        self._sender.maintain(heartbeat)
        sent = 0
        for visit_type, settings in self._settings.items():
            if heartbeat.stopping or time.monotonic() < self._next[visit_type]:
                continue
            self._next[visit_type] = time.monotonic() + settings.period_seconds
            try:
                sent += self._fill(visit_type, settings, heartbeat)
            except StatementRefused as error:  # of origins of this type; others go on
                self._sender.account.left_out(settings.task_type or f"load-{visit_type}", str(error))
                self._refused[visit_type] = str(error)
            else:
                self._refused.pop(visit_type, None)
        heartbeat.trouble = next(iter(self._refused.values()), None)
        if sent:
            heartbeat.beat(f"dispatched {sent} visits")
        return False

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Wait until the next period has passed; what others left behind, and connections, are maintained meanwhile."""
        until = min(self._next.values(), default=time.monotonic() + MAINTAIN_SECONDS)
        while not heartbeat.stopping and (left := until - time.monotonic()) > 0:
            heartbeat.wait(min(left, MAINTAIN_SECONDS))
            self._sender.maintain(heartbeat)

    def close(self) -> None:
        """Give the identity up."""
        self._sender.close()

    def _fill(self, visit_type: str, settings: VisitSettings, heartbeat: Heartbeat) -> int:
        name = settings.task_type or f"load-{visit_type}"
        target = self._dispatch.visit_queue(name)
        if target is None:
            if name not in self._missing:
                log.warning("visits wait for their task type", visit_type=visit_type, task_type=name)
                self._missing.add(name)
            return 0
        self._missing.discard(name)
        queue, max_queue_length = target
        if queue in self._sender.open_queues:
            return 0
        with self._sender.fill(queue, max_queue_length, heartbeat) as fill:
            if fill is None or fill.full:
                return 0
            return self._send(visit_type, name, settings, fill)

    def _send(self, visit_type: str, task_type: str, settings: VisitSettings, fill: Fill) -> int:
        started = time.monotonic()
        count = settings.batch_size if fill.room is None else min(fill.room, settings.batch_size)
        plan = VisitPlan.of(visit_type, task_type, count, settings)
        opened = self._dispatch.open_visit_batch(self._sender.session_id, fill.queue, plan)
        batch = None if opened is None else self._dispatch.read_batch(self._sender.session_id, opened)
        if batch is None:
            return 0
        self._instruments.grabbed(task_type, len(batch.messages), time.monotonic() - started)
        visits, _ = self._sender.send(fill, batch)
        self._instruments.dispatched(task_type, fill.queue, visits)
        log.info(
            "dispatched visits",
            visits=visits,
            visit_type=visit_type,
            queue=fill.queue,
            depth="unlimited" if fill.max_queue_length is None else f"{fill.depth}/{fill.max_queue_length}",
            ms=round(1000 * (time.monotonic() - started)),
        )
        return visits
