"""Why a task is not running: what the database and the broker know, in one answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import attrs

from swh_sched_runner.backend.inspection import explain as database_side
from swh_sched_runner.backend.inspection.explain import TaskFacts
from swh_sched_runner.broker.queues import QueueInfo, Queues
from swh_sched_runner.config import BrokerSettings
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import BrokerUnavailable, DepthUnreadable, NotRunning
from swh_sched_runner.insight.format import end_of
from swh_sched_runner.insight.in_flight import SEND_AGAIN, in_flight
from swh_sched_runner.insight.reason import BrokerFacts, Reason, ReasonCode
from swh_sched_runner.insight.waiting import waiting

__all__ = ["BrokerFacts", "Explanation", "Reason", "ReasonCode", "explain_task"]


@attrs.define(slots=True, frozen=True)
class Explanation:
    """Why a task is not running, or where it runs: the reason that decides, and all others that hold.

    ``text`` says it in a sentence, ``advice`` what to do about it if something can be done, ``expected_wait`` how long
    it is likely to hold, as far as that is known. ``also`` is in order of weight. ``missing`` says why the broker
    could not be asked, if so. ``facts`` (of the database) and ``seen`` (by the broker) are what all of it was
    concluded from.
    """

    task: int
    code: ReasonCode
    text: str
    advice: str | None
    expected_wait: timedelta | None
    also: list[Reason]
    missing: str | None
    facts: TaskFacts
    seen: BrokerFacts


def explain_task(
    database: Database, open_queues: Callable[[], Queues], settings: BrokerSettings, task_id: int
) -> Explanation:
    """Why the task is not running. Changes nothing, and asks the broker only where its answer counts.

    ``open_queues`` may raise ``BrokerUnavailable`` or ``NotRunning``: the answer then is what the database knows.
    Raises ``UnknownTask``.
    """
    facts = database.run(database_side.read, task_id, settings.priority_queue)
    seen = _ask_broker(open_queues, settings, facts)
    found = _conclude(facts, seen)
    if found.code == "not_in_queue":
        # A worker may have taken it between the two reads: then the run has changed.
        return _conclude(database.run(database_side.read, task_id, settings.priority_queue), seen)
    return found


def _conclude(facts: TaskFacts, seen: BrokerFacts) -> Explanation:
    match facts.status:
        case "completed" | "disabled":
            first, *others = [_done(facts)]
        case "next_run_not_scheduled":
            first, *others = waiting(facts, seen)
        case _:
            first, *others = in_flight(facts, seen)
    return Explanation(
        task=facts.task,
        code=first.code,
        text=first.text,
        advice=first.advice,
        expected_wait=first.expected_wait,
        also=others,
        missing=seen.missing,
        facts=facts,
        seen=seen,
    )


def _done(facts: TaskFacts) -> Reason:
    code: ReasonCode = "completed" if facts.status == "completed" else "disabled"
    run = facts.run
    if run is not None and run.moved:
        text = f"{code} by the end of run {run.id}: it {end_of(run.status, run.ended, run.error)}"
    elif run is None and facts.run_id is not None:
        text = f"{code} by the end of run {facts.run_id}, which was deleted since"
    else:
        text = f"{code} by an operator, not by the end of a run"
    return Reason(code, text, f"to have it run again: {SEND_AGAIN.format(task=facts.task)}")


def _ask_broker(open_queues: Callable[[], Queues], settings: BrokerSettings, facts: TaskFacts) -> BrokerFacts:
    """Ask the broker what matters for a task in this state."""
    run = facts.run
    open_run = run if facts.status == "next_run_scheduled" and run is not None and run.ended is None else None
    if not facts.due and open_run is None:
        return BrokerFacts()
    try:
        with open_queues() as queues:
            lives = None if open_run is None or open_run.worker is None else queues.worker_is_connected(open_run.worker)
            events = None if open_run is None else _event_queue(queues, settings)
            try:
                queue = queues.info(facts.queue, open_run.backend_id if open_run else None)
            except DepthUnreadable as error:
                return BrokerFacts(None, events, lives, unreadable=str(error.facts["reason"]))
            return BrokerFacts(queue, events, lives)
    except (BrokerUnavailable, NotRunning) as error:
        return BrokerFacts(missing=str(error))


def _event_queue(queues: Queues, settings: BrokerSettings) -> QueueInfo | None:
    try:
        return queues.events(settings)
    except DepthUnreadable:
        return None
