"""The visit scheduler: picks the origins to visit next, by policy, and dispatches their visits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import attrs
import structlog

from swh_sched_runner.backend.dispatch.outbox import Batch, Dispatch
from swh_sched_runner.backend.dispatch.visit_batches import VisitPlan
from swh_sched_runner.broker.interface import Publisher
from swh_sched_runner.config import VisitSettings
from swh_sched_runner.services.dispatch.fill_pass import FillPass, QueueWork
from swh_sched_runner.services.dispatch.pipeline import Pipeline
from swh_sched_runner.services.dispatch.sender import MAINTAIN_SECONDS, Sender
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat, in_words

log = structlog.get_logger(__name__)

# How soon a queue that another session has leased is tried again.
LEASED_SECONDS = 0.2


@attrs.define(slots=True, frozen=True, eq=False)
class Visits:
    """The visits of a type, as a source of messages."""

    dispatch: Dispatch
    plan: VisitPlan
    due_in_seconds: float | None = None  # no visit has a time when it is due

    @property
    def task_type(self) -> str:
        """The type of the tasks that visit."""
        return self.plan.task_type

    def open_batch(self, session_id: int, queue: str, most: int) -> Batch | None:
        """Take up to ``most`` origins, or as many as the plan says."""
        return self.dispatch.open_visit_batch(session_id, queue, self.plan, most)


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
        instruments = instruments or Instruments()
        self._dispatch = dispatch
        self._settings = settings
        self._sender = Sender(dispatch, open_publisher, self.name, instruments)
        most = max((each.batch_size for each in settings.values()), default=1)
        self._pipeline = Pipeline(self._sender, most, instruments, keep_leases=False)
        self._next = dict.fromkeys(settings, 0.0)
        self._missing: set[str] = set()
        self._refused: dict[str, str] = {}

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """One round over the visit types whose period has passed; False, since the next one waits for its period."""
        self._sender.maintain(heartbeat)
        due = [visit_type for visit_type, at in self._next.items() if time.monotonic() >= at]
        work = self._work(due)
        answers = self._pipeline.run(work, heartbeat)
        visits = 0
        for answer in answers.values():
            if isinstance(answer, FillPass):
                visits += sum(answer.sent.values())
                _log_dispatched(answer)
        for each in work:
            if answers.get(each.queue) == "leased_elsewhere":
                self._try_again_soon(each)
        if visits:
            heartbeat.beat(f"dispatched {visits} visits")
        log.debug("round over", due=due, queues=[each.queue for each in work], visits=visits)
        return False

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Wait until the next period has passed; open batches, and connections, are maintained meanwhile."""
        until = min(self._next.values(), default=time.monotonic() + MAINTAIN_SECONDS)
        heartbeat.beat(f"idle, next round in {in_words(max(0.0, until - time.monotonic()))}")
        while not heartbeat.stopping and (left := until - time.monotonic()) > 0:
            heartbeat.wait(min(left, MAINTAIN_SECONDS))
            self._sender.maintain(heartbeat)

    def close(self) -> None:
        """Give the identity up."""
        try:
            self._pipeline.close()
        finally:
            self._sender.close()

    def _try_again_soon(self, work: QueueWork) -> None:
        """The lease was asked for: be there before its owner needs it again."""
        soon = time.monotonic() + LEASED_SECONDS
        for source in work.sources:
            assert isinstance(source, Visits)
            self._next[source.plan.visit_type] = min(soon, self._next[source.plan.visit_type])

    def _work(self, visit_types: list[str]) -> list[QueueWork]:
        """The queues of these visit types, but those with messages that are to be sent again first."""
        found: dict[str, tuple[int | None, list[Visits]]] = {}
        for visit_type in visit_types:
            settings = self._settings[visit_type]
            self._next[visit_type] = time.monotonic() + settings.period_seconds
            task_type = settings.task_type or f"load-{visit_type}"
            target = self._dispatch.visit_queue(task_type)
            if target is None:
                if task_type not in self._missing:
                    log.warning("visits wait for their task type", visit_type=visit_type, task_type=task_type)
                    self._missing.add(task_type)
                continue
            self._missing.discard(task_type)
            queue, max_queue_length = target
            if not self._sender.has_open_batch(queue):
                plan = VisitPlan.of(visit_type, task_type, settings)
                found.setdefault(queue, (max_queue_length, []))[1].append(Visits(self._dispatch, plan))
        return [QueueWork(queue, limit, sources) for queue, (limit, sources) in found.items()]


def _log_dispatched(fill_pass: FillPass) -> None:
    lease = fill_pass.lease
    for source, messages in fill_pass.sent.items():
        if messages and isinstance(source, Visits):
            log.info(
                "dispatched visits",
                visits=messages,
                visit_type=source.plan.visit_type,
                queue=lease.queue,
                depth="unlimited" if lease.max_queue_length is None else f"{lease.depth}/{lease.max_queue_length}",
                ms=round(1000 * (time.monotonic() - fill_pass.started)),
            )
