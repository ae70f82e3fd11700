"""The runner: takes due tasks and dispatches them to their queues, each within its bound."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import attrs
import structlog

from swh_sched_runner.backend.dispatch import Dispatch, Lane
from swh_sched_runner.broker.publish import Filler, Publisher
from swh_sched_runner.config import RunnerSettings
from swh_sched_runner.services.sender import Sender
from swh_sched_runner.services.service import Pulse

log = structlog.get_logger(__name__)


class Runner:
    """Sends again what is still open, then fills every queue that has room."""

    name = "runner"

    def __init__(
        self,
        dispatch: Dispatch,
        open_publisher: Callable[[int], Publisher],
        settings: RunnerSettings,
        priority_queue: str,
    ) -> None:
        self.period_seconds = settings.period_seconds
        self._dispatch = dispatch
        self._sender = Sender(dispatch, open_publisher)
        self._task_types: Sequence[str] = settings.task_types
        self._batch_size = settings.batch_size
        self._priority_queue = priority_queue
        self._round = 0

    def run_once(self, pulse: Pulse) -> bool:
        """One round over all queues; True if room is left where more tasks are due."""
        self._sender.check()
        resent, open_queues = self._sender.resume(pulse)
        sent, more = 0, False
        for queue, lanes in self._due():
            if pulse.stopping or queue in open_queues:
                continue
            for left, lane in zip(range(len(lanes), 0, -1), lanes, strict=True):
                lane_sent, lane_more = self._fill(queue, lane, left, pulse)
                sent += lane_sent
                more = more or lane_more
        self._round += 1
        if sent or resent:
            pulse.beat(f"dispatched {sent}, sent again {resent}")
        return more

    def close(self) -> None:
        """Give the identity up."""
        self._sender.close()

    def _due(self) -> Iterator[tuple[str, list[Lane]]]:
        """Queues with due tasks, and their lanes, each round another one first so that none starves the others."""
        lanes = sorted(self._dispatch.due_lanes(self._task_types), key=self._queue)
        for queue, group in itertools.groupby(lanes, key=self._queue):
            on_queue = list(group)
            bounds = [lane.max_queue_length for lane in on_queue if lane.max_queue_length is not None]
            on_queue = [attrs.evolve(lane, max_queue_length=min(bounds, default=None)) for lane in on_queue]
            first = self._round % len(on_queue)
            yield queue, on_queue[first:] + on_queue[:first]

    def _queue(self, lane: Lane) -> str:
        return self._priority_queue.format(backend_name=lane.backend_name) if lane.priority else lane.backend_name

    def _fill(self, queue: str, lane: Lane, lanes_left: int, pulse: Pulse) -> tuple[int, bool]:
        """Fill a queue from one lane with its share of the room; says whether the lane may have more for it."""
        exhausted = False

        def work(filler: Filler, room: int | None) -> int:
            nonlocal exhausted
            started, sent = time.monotonic(), 0
            share = None if room is None else -(-room // lanes_left)
            while not pulse.stopping and (share is None or sent < share):
                wanted = self._batch_size if share is None else min(self._batch_size, share - sent)
                batch = self._dispatch.open_batch(self._sender.owner, queue, lane, wanted)
                grabbed = 0 if batch is None else len(batch.promises)
                confirmed = 0 if batch is None else self._sender.send(filler, batch, wanted)
                sent += confirmed
                pulse.beat()
                if confirmed < wanted:
                    exhausted = grabbed < wanted
                    break
            if sent:
                _log_dispatched(sent, queue, lane, room, time.monotonic() - started)
            return sent

        sent = self._sender.fill(queue, lane.max_queue_length, pulse, work)
        return sent or 0, bool(sent) and not exhausted


def _log_dispatched(sent: int, queue: str, lane: Lane, room: int | None, seconds: float) -> None:
    bound = lane.max_queue_length
    depth = None if bound is None or room is None else bound - room + sent
    log.info(
        "dispatched",
        tasks=sent,
        task_type=lane.task_type,
        queue=queue,
        depth="unbounded" if depth is None else f"{depth}/{bound}",
        ms=round(1000 * seconds),
    )
