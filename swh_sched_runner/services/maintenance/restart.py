"""After a restart of the private servers: what dead processes left open is sent again, or ended as lost.

Everything that ran died with the servers, but for workers that are still alive; what the broker holds is known
exactly. So the evidence is complete, as it never is with servers that others share.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import UTC, datetime

import structlog

from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.tasks.runs import RunChange
from swh_sched_runner.config import queue_name
from swh_sched_runner.model import Evidence

log = structlog.get_logger(__name__)

LOST = "its worker died with the private servers"


def recover(
    dispatch: Dispatch,
    waiting_ids: Callable[[Collection[str]], set[str]],
    priority_queue: str,
    *,
    workers_alive: bool,
) -> None:
    """Settle the runs that are open. Call it when all events were recorded, and before anything is sent.

    ``waiting_ids`` tells which messages lie in given queues. With ``workers_alive``, runs that a living worker may
    hold are left to it.
    """
    open_runs = dispatch.open_runs()
    queues = {run: queue_name(run.backend_name, priority_queue, priority=run.priority) for run in open_runs}
    waiting = waiting_ids(set(queues.values()))
    left = [run for run in open_runs if not run.unconfirmed and run.backend_id not in waiting]
    lost = [run for run in left if run.started and not (workers_alive and _alive(run.worker_pid))]
    again: dict[str, list[int]] = defaultdict(list)
    for run in left:
        if not run.started and not workers_alive:
            again[queues[run]].append(run.id)
    now = datetime.now(UTC)
    dispatch.record_events(
        [
            RunChange(run.backend_id, status="lost", ended=now, evidence=Evidence.LOST, end_noted={"reason": LOST})
            for run in lost
        ]
    )
    dispatch.put_in_outbox(again)
    if lost or again:
        log.warning(
            "open runs resolved after the restart",
            lost=len(lost),
            sent_again=sum(map(len, again.values())),
            waiting=len(waiting),
        )


def _alive(pid: int | None) -> bool:
    if pid is None:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
