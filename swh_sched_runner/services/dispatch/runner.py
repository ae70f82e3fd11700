"""The runner: takes due tasks and dispatches them to their queues, each within its max_queue_length."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.dispatch.ready import Look, TaskGroup
from swh_sched_runner.broker.publish import Publisher
from swh_sched_runner.config import RunnerSettings
from swh_sched_runner.services.dispatch.pipeline import Pipeline
from swh_sched_runner.services.dispatch.sender import MAINTAIN_SECONDS, Sender
from swh_sched_runner.services.dispatch.turn import Turn
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.services.service import Heartbeat

log = structlog.get_logger(__name__)

# A queue that takes nothing is asked again after the first, then ever later, up to the second; sooner where its workers
# are known to take messages.
FIRST_PROBE_SECONDS = 0.02
LAST_PROBE_SECONDS = 1.0
# A queue is filled again when so much of it should be free.
REFILL_SHARE = 0.25
SOONEST_REFILL_SECONDS = 0.005
# So short a sleep is not worth its announcement.
NAP_SECONDS = 0.02
# Who can't announce its sleep, since somebody is making tasks due right now, looks again after the first, then later.
FIRST_AGAIN_SECONDS = 0.005
LAST_AGAIN_SECONDS = 0.1
# A waiting runner notices that it is to stop within this.
WAIT_SECONDS = 0.25


class Probe:
    """When a queue that took nothing is asked again."""

    def __init__(self) -> None:
        self.at = 0.0
        self._delay = 0.0

    def later(self) -> None:
        """It took nothing again. With jitter, so that runners don't ask in step."""
        self._delay = min(LAST_PROBE_SECONDS, max(FIRST_PROBE_SECONDS, self._delay * 2))
        self.at = time.monotonic() + self._delay * random.uniform(0.5, 1)

    def soon(self, seconds: float) -> None:
        """It was filled, and should have room again after that long."""
        self._delay = 0.0
        self.at = time.monotonic() + seconds


class Runner:
    """Sends again what is still open, then fills every queue that has room; sleeps until there is something to do."""

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
        self._instruments = instruments or Instruments()
        self._sender = Sender(dispatch, open_publisher, self.name, self._instruments)
        self._pipeline = Pipeline(dispatch, self._sender, settings.batch_size, self._instruments)
        self._task_types: Sequence[str] = settings.task_types
        self._period_seconds = settings.period_seconds
        self._priority_queue = priority_queue
        self._turns: dict[str, int] = {}
        self._probes: dict[str, Probe] = {}
        self._blocked: dict[str, str | None] = {}
        self._look = Look([], set())
        self._looked = 0.0
        self._busy = False
        self._announced = False
        self._notified = False
        self._unheard = 0
        self._deaf_until = 0.0

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """One round over all queues; True if something was sent, so that there may be more to do."""
        started = time.monotonic()
        resent = self._sender.maintain(heartbeat, busy=self._busy)
        self._see()
        due = self._due()
        chosen = self._choose(due)
        turns = self._pipeline.run(chosen, heartbeat)
        self._note(due, chosen, {turn.fill.queue: turn for turn in turns})
        sent = sum(sum(turn.sent.values()) for turn in turns)
        # More and more tasks for a queue that takes none: their creators need not wake us for each.
        futile = self._notified and bool(due) and not sent
        if futile:
            self._deaf_until = time.monotonic() + LAST_AGAIN_SECONDS
        if self._announced and (futile or (self._busy and sent)):
            # Not after each wake-up: mostly the next sleep is announced shortly after.
            self._sender.wake_up()
            self._announced = False
        self._busy = bool(sent)
        self._notified = False
        for turn in turns:
            _log_dispatched(turn)
        if sent or resent:
            heartbeat.beat(f"dispatched {sent}, sent again {resent}")
        self._instruments.round_done(time.monotonic() - started)
        return bool(sent or resent)

    def wait_for_work(self, heartbeat: Heartbeat) -> None:
        """Sleep until the next task is due, a full queue may have room, or somebody makes a task due before."""
        seconds, reason = self._idle_seconds()
        if self._announce(seconds):
            self._announced = True
            self._see()
            if self._choose(self._due(), ready=True):
                seconds, reason = 0.0, "due"
        else:
            seconds = min(seconds, LAST_AGAIN_SECONDS, FIRST_AGAIN_SECONDS * 2 ** min(self._unheard, 10))
        self._notified = self._wait(seconds, heartbeat)
        self._instruments.woken("notified" if self._notified else reason)

    def close(self) -> None:
        """Give the identity up."""
        try:
            self._pipeline.close()
        finally:
            self._sender.close()

    def _announce(self, seconds: float) -> bool:
        """Tell those who make tasks due to wake us. Not for a nap, nor where they did for nothing just before."""
        if seconds <= NAP_SECONDS or time.monotonic() < self._deaf_until:
            return False
        announced = self._sender.fall_asleep(seconds)
        self._unheard = 0 if announced else self._unheard + 1
        return announced

    def _see(self) -> None:
        self._look = self._dispatch.look(self._task_types)
        self._looked = time.monotonic()
        groups = self._look.groups
        self._instruments.oldest_due(
            {(group.task_type, group.priority): -group.due_in_seconds for group in groups if group.due_in_seconds <= 0}
        )

    def _due(self) -> dict[str, list[TaskGroup]]:
        """Queues with due tasks, and their groups: those with a priority first, all with the least of their bounds."""
        due: dict[str, list[TaskGroup]] = {}
        passed = time.monotonic() - self._looked
        for group in self._look.groups:
            if group.due_in_seconds <= passed:
                due.setdefault(self._queue(group), []).append(group)
        return due

    def _choose(self, due: dict[str, list[TaskGroup]], *, ready: bool = False) -> list[tuple[str, list[TaskGroup]]]:
        """The queues to fill now, and their groups, each time another one first so that none starves the others.

        A queue that took nothing is left out until its time, when there is other work or ``ready`` ones are asked for.
        """
        chosen = []
        for queue, groups in due.items():
            free = [group for group in groups if group.throttled is None]
            if not free or queue in self._look.paused_queues or queue in self._sender.open_queues:
                continue
            if (self._busy or ready) and queue in self._probes and time.monotonic() < self._probes[queue].at:
                continue
            first = self._turns.get(queue, 0) % len(free)
            chosen.append((queue, free[first:] + free[:first]))
        return chosen

    def _note(
        self, due: dict[str, list[TaskGroup]], chosen: Iterable[tuple[str, object]], turns: dict[str, Turn]
    ) -> None:
        """Draw the conclusions of a round: when to ask each queue again, and what blocks it."""
        asked = {queue for queue, _ in chosen}
        for queue in self._blocked.keys() - due.keys():
            self._instruments.blocked(queue, None)
            del self._blocked[queue]
        self._probes = {queue: probe for queue, probe in self._probes.items() if queue in due}
        for queue, groups in due.items():
            turn = turns.get(queue)
            if turn is not None and any(turn.sent.values()):
                self._turns[queue] = self._turns.get(queue, 0) + 1
                self._filled(queue, turn)
            elif queue in asked or any(group.throttled == "in_flight" for group in groups):
                self._probes.setdefault(queue, Probe()).later()
            reason = self._reason(queue, groups, turn, queue in asked)
            self._instruments.blocked(queue, reason)
            self._blocked[queue] = reason

    def _filled(self, queue: str, turn: Turn) -> None:
        fill = turn.fill
        if not fill.full or not fill.max_queue_length:
            self._probes.pop(queue, None)
            return
        seconds = FIRST_PROBE_SECONDS
        if fill.drained:
            share = REFILL_SHARE * fill.max_queue_length / fill.drained
            seconds = min(max(share, SOONEST_REFILL_SECONDS), LAST_PROBE_SECONDS)
        self._probes.setdefault(queue, Probe()).soon(seconds)

    def _reason(self, queue: str, groups: Sequence[TaskGroup], turn: Turn | None, asked: bool) -> str | None:
        """Why a queue with due tasks takes none; None if it does."""
        if queue in self._look.paused_queues:
            return "paused"
        if queue in self._sender.open_queues:
            return "open_batch"
        held = [group.throttled for group in groups]
        if None not in held:
            return held[0]
        if turn is not None:
            return "full" if turn.fill.full else None
        if not asked:
            return self._blocked.get(queue)
        return self._sender.refusal(queue)

    def _idle_seconds(self) -> tuple[float, str]:
        """How long nothing is to be done, and what will be then."""
        now = time.monotonic()
        passed = now - self._looked
        timestamps = [(min(self._period_seconds, MAINTAIN_SECONDS), "poll")]
        for group in self._look.groups:
            if group.due_in_seconds > passed:
                timestamps.append((group.due_in_seconds - passed, "due"))
            elif group.throttled_seconds is not None:
                timestamps.append((group.throttled_seconds - passed, "rate"))
        timestamps += [(probe.at - now, "probe") for probe in self._probes.values()]
        seconds, reason = min(timestamps)
        return max(seconds, 0.0), reason

    def _wait(self, seconds: float, heartbeat: Heartbeat) -> bool:
        until = time.monotonic() + seconds
        while not heartbeat.stopping and (left := until - time.monotonic()) > 0:
            if self._sender.wait(min(left, WAIT_SECONDS)):
                return True
            heartbeat.beat()
            self._sender.keep_alive()
        return False

    def _queue(self, group: TaskGroup) -> str:
        return self._priority_queue.format(backend_name=group.backend_name) if group.priority else group.backend_name


def _log_dispatched(turn: Turn) -> None:
    fill = turn.fill
    for group, tasks in turn.sent.items():
        if tasks:
            log.info(
                "dispatched",
                tasks=tasks,
                task_type=group.task_type,
                queue=fill.queue,
                depth="unlimited" if fill.max_queue_length is None else f"{fill.depth}/{fill.max_queue_length}",
                ms=round(1000 * (time.monotonic() - turn.started)),
            )
