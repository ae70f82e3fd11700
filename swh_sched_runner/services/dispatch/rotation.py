"""Which queues are filled next: fairly, and none that took nothing before it is worth another try."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from swh_sched_runner.backend.dispatch.ready import ReadySnapshot, TaskGroup
from swh_sched_runner.services.dispatch.fill_pass import FillPass
from swh_sched_runner.services.dispatch.lease import QueueLease, Refusal

# A queue that takes nothing is asked again after the first, then ever later, up to the second; sooner where its workers
# are known to take messages.
FIRST_PROBE_SECONDS = 0.02
LAST_PROBE_SECONDS = 1.0
# A queue is filled again when so much of it should be free.
REFILL_SHARE = 0.25
SOONEST_REFILL_SECONDS = 0.005

Groups = Mapping[str, Sequence[TaskGroup]]


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
        """It was filled, and should have capacity again after that long."""
        self._delay = 0.0
        self.at = time.monotonic() + seconds


class Rotation:
    """Queues with due tasks, in the order in which they are filled.

    ``has_open_batch`` says of a queue whether messages to it are still to be sent again.
    """

    def __init__(self, has_open_batch: Callable[[str], bool]) -> None:
        self._has_open_batch = has_open_batch
        self._passes: dict[str, int] = {}  # that sent something: another group is first each time
        self._probes: dict[str, Probe] = {}
        self._blocked: dict[str, str | None] = {}
        # Queues that another session had leased when they were asked, and the time before: it may not use the lease.

    def choose(self, due: Groups, snapshot: ReadySnapshot, *, only_ready: bool) -> dict[str, list[TaskGroup]]:
        """The queues to fill now, and their groups, each time another one first so that none starves the others.

        ``only_ready``: without queues that took nothing, until their time has come.
        """
        chosen: dict[str, list[TaskGroup]] = {}
        now = time.monotonic()
        for queue, groups in due.items():
            free = [group for group in groups if group.throttled is None]
            if not free or queue in snapshot.paused_queues or self._has_open_batch(queue):
                continue
            if only_ready and queue in self._probes and now < self._probes[queue].at:
                continue
            first = self._passes.get(queue, 0) % len(free)
            chosen[queue] = free[first:] + free[:first]
        return chosen

    def note(
        self,
        due: Groups,
        snapshot: ReadySnapshot,
        asked: Collection[str],
        answers: Mapping[str, FillPass | Refusal],
    ) -> dict[str, str | None]:
        """Note what became of a round; answers why each queue is blocked, None if it isn't (any more)."""
        blocked: dict[str, str | None] = dict.fromkeys(self._blocked.keys() - due.keys())
        self._probes = {queue: probe for queue, probe in self._probes.items() if queue in due}
        for queue, groups in due.items():
            answer = answers.get(queue)
            if isinstance(answer, FillPass) and any(answer.sent.values()):
                self._passes[queue] = self._passes.get(queue, 0) + 1
                self._filled(answer.lease)
            elif queue in asked or any(group.throttled == "in_flight" for group in groups):
                self._probes.setdefault(queue, Probe()).later()
            blocked[queue] = self._reason(queue, groups, snapshot, answer)
        self._blocked = {queue: blocked[queue] for queue in due}
        return blocked

    def probes(self) -> list[float]:
        """When queues that took nothing are asked again, by ``time.monotonic``."""
        return [probe.at for probe in self._probes.values()]

    def _filled(self, lease: QueueLease) -> None:
        if not lease.full or not lease.max_queue_length:
            self._probes.pop(lease.queue, None)
            return
        seconds = FIRST_PROBE_SECONDS
        if lease.drained:
            share = REFILL_SHARE * lease.max_queue_length / lease.drained
            seconds = min(max(share, SOONEST_REFILL_SECONDS), LAST_PROBE_SECONDS)
        self._probes.setdefault(lease.queue, Probe()).soon(seconds)

    def _reason(
        self, queue: str, groups: Sequence[TaskGroup], snapshot: ReadySnapshot, answer: FillPass | Refusal | None
    ) -> str | None:
        """Why a queue with due tasks takes none; None if it does."""
        if queue in snapshot.paused_queues:
            return "paused"
        if self._has_open_batch(queue):
            return "open_batch"
        throttled = [group.throttled for group in groups]
        if None not in throttled:
            return throttled[0]
        if isinstance(answer, FillPass):
            return "full" if answer.lease.full else None
        return self._blocked.get(queue) if answer is None else answer
