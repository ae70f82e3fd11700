"""The runner: takes due tasks and dispatches them to their queues, each within its limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs
import structlog

from swh_sched_runner.backend.dispatch.outbox import Batch, Dispatch
from swh_sched_runner.backend.dispatch.ready import ReadySnapshot, TaskGroup
from swh_sched_runner.broker.interface import Publisher
from swh_sched_runner.config import RunnerSettings, least_limit, queue_name
from swh_sched_runner.services.dispatch.fill_pass import FillPass, QueueWork
from swh_sched_runner.services.dispatch.pipeline import Pipeline
from swh_sched_runner.services.dispatch.rotation import Rotation
from swh_sched_runner.services.dispatch.sender import MAINTAIN_SECONDS, Sender
from swh_sched_runner.services.dispatch.sleep import Sleep
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat, debugging, in_words

log = structlog.get_logger(__name__)


@attrs.define(slots=True, frozen=True)
class Tasks:
    """The due tasks of a group, as a source of messages."""

    dispatch: Dispatch = attrs.field(eq=False)
    group: TaskGroup

    @property
    def task_type(self) -> str:
        """Their type."""
        return self.group.task_type

    @property
    def due_in_seconds(self) -> float | None:
        """Since when the first is due, as a negative number."""
        return self.group.due_in_seconds

    def open_batch(self, session_id: int, queue: str, most: int) -> Batch | None:
        """Take up to ``most`` of them."""
        batch = self.dispatch.open_batch(session_id, queue, self.group, most)
        if debugging(__name__):
            self._tell(queue, most, batch)
        return batch

    def _tell(self, queue: str, most: int, batch: Batch | None) -> None:
        tasks = [] if batch is None else self.dispatch.tasks_of_batch(batch.id)
        log.debug(
            "tasks taken",
            task_type=self.task_type,
            priority=self.group.priority,
            queue=queue,
            wanted=most,
            batch=None if batch is None else batch.id,
            tasks=tasks,
        )


class Runner:
    """Sends open batches again, then fills every queue that has capacity; sleeps until there is something to do."""

    name = "runner"

    def __init__(
        self,
        dispatch: Dispatch,
        open_publisher: Callable[[int], Publisher],
        settings: RunnerSettings,
        priority_queue: str,
        instruments: Instruments | None = None,
    ) -> None:
        self._dispatch = dispatch
        self._settings = settings
        self._priority_queue = priority_queue
        self._instruments = instruments or Instruments()
        self._sender = Sender(dispatch, open_publisher, self.name, self._instruments)
        self._pipeline = Pipeline(self._sender, settings.batch_size, self._instruments, keep_leases=True)
        self._rotation = Rotation(self._sender.has_open_batch)
        self._sleep = Sleep(self._sender.session, self._sender.keep_alive)
        self._snapshot = ReadySnapshot([], set())
        self._blocked: dict[str, str] = {}  # queues with due tasks that took none in the last round, and why
        self._busy = False  # whether the last round sent something

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """One round over all queues; True if something was sent, so that there may be more to do."""
        started = time.monotonic()
        resent = self._sender.maintain(heartbeat, busy=self._busy)
        reading = self._pipeline.submit(self._read_snapshot)
        if not self._busy:
            self._sender.renew_last()  # meanwhile
        self._pipeline.wait(reading, heartbeat)
        due = self._due()
        chosen = self._rotation.choose(due, self._snapshot, only_ready=self._busy)
        work = [self._work(queue, groups) for queue, groups in chosen.items()]
        # Not in the first round after a sleep: mostly there are a few tasks, and a second grab would take none.
        answers = self._pipeline.run(work, heartbeat, again=self._busy and len(work) == 1)
        reasons = self._rotation.note(due, self._snapshot, chosen, answers)
        for queue, reason in reasons.items():
            self._instruments.blocked(queue, reason)
        self._blocked = {queue: reason for queue, reason in reasons.items() if reason is not None}
        passes = [answer for answer in answers.values() if isinstance(answer, FillPass)]
        sent = sum(sum(fill_pass.sent.values()) for fill_pass in passes)
        self._sleep.worked(due=bool(due), sent=bool(sent), busy=self._busy)
        self._busy = bool(sent)
        for fill_pass in passes:
            _log_dispatched(fill_pass)
        if sent or resent:
            heartbeat.beat(f"dispatched {sent}, sent again {resent}")
        seconds = time.monotonic() - started
        self._instruments.round_done(seconds)
        log.debug(
            "round over",
            due={queue: [group.task_type for group in groups] for queue, groups in due.items()},
            asked=list(chosen),
            blocked=self._blocked,
            sent=sent,
            sent_again=resent,
            ms=round(1000 * seconds),
        )
        return bool(sent or resent)

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Sleep until the next task is due, a full queue may have capacity, or somebody makes a task due before."""
        seconds, reason = self._idle_seconds()
        if self._sleep.announce(seconds):
            self._read_snapshot()
            if self._rotation.choose(self._due(), self._snapshot, only_ready=True):
                seconds, reason = 0.0, "due"
        else:
            seconds = self._sleep.unannounced_seconds(seconds)
        heartbeat.beat(self._idle())
        log.debug("sleeping", seconds=round(seconds, 3), then=reason)
        notified = self._sleep.sleep(seconds, heartbeat)
        log.debug("awake", by="a task that was made due" if notified else reason)
        self._instruments.woken("notified" if notified else reason)

    def close(self) -> None:
        """Give the identity up."""
        try:
            self._pipeline.close()
        finally:
            self._sender.close()

    def _read_snapshot(self) -> None:
        self._snapshot = self._dispatch.ready_snapshot(self._settings.task_types)
        self._instruments.oldest_due(
            {(group.task_type, group.priority): -group.due_in_seconds for group in self._snapshot.due()}
        )

    def _due(self) -> dict[str, list[TaskGroup]]:
        """Queues with due tasks, and their groups, those with a priority first."""
        due: dict[str, list[TaskGroup]] = {}
        for group in self._snapshot.due():
            due.setdefault(self._queue(group), []).append(group)
        return due

    def _work(self, queue: str, groups: Sequence[TaskGroup]) -> QueueWork:
        limit = least_limit(group.max_queue_length for group in groups)
        return QueueWork(queue, limit, [Tasks(self._dispatch, group) for group in groups])

    def _idle(self) -> str:
        """What it waits for, in words."""
        if self._blocked:
            queue, reason = next(iter(self._blocked.items()))
            others = f" and {len(self._blocked) - 1} more" if len(self._blocked) > 1 else ""
            return f"due tasks wait for queue {queue} ({reason.replace('_', ' ')}){others}"
        age = self._snapshot.age_seconds
        later = [group.due_in_seconds - age for group in self._snapshot.groups if group.due_in_seconds > age]
        return f"idle, next task due in {in_words(min(later))}" if later else "idle, no task waits"

    def _idle_seconds(self) -> tuple[float, str]:
        """How long nothing is to be done, and what will be then."""
        age = self._snapshot.age_seconds
        times = [(min(self._settings.period_seconds, MAINTAIN_SECONDS), "poll")]
        for group in self._snapshot.groups:
            if group.due_in_seconds > age:
                times.append((group.due_in_seconds - age, "due"))
            elif group.throttled_seconds is not None:
                times.append((group.throttled_seconds - age, "rate"))
        now = time.monotonic()
        times += [(at - now, "probe") for at in self._rotation.probes()]
        seconds, reason = min(times)
        return max(seconds, 0.0), reason

    def _queue(self, group: TaskGroup) -> str:
        return queue_name(group.backend_name, self._priority_queue, priority=group.priority)


def _log_dispatched(fill_pass: FillPass) -> None:
    lease = fill_pass.lease
    for source, messages in fill_pass.sent.items():
        if messages:
            log.info(
                "dispatched",
                tasks=messages,
                task_type=source.task_type,
                queue=lease.queue,
                depth="unlimited" if lease.max_queue_length is None else f"{lease.depth}/{lease.max_queue_length}",
                ms=round(1000 * (time.monotonic() - fill_pass.started)),
            )
