"""Where a task is that a runner has taken, and why it has not ended: every reason, and its text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from shlex import quote

from swh_sched_runner.backend.inspection.explain import Run, TaskFacts, Unconfirmed
from swh_sched_runner.broker.queues import QueueInfo
from swh_sched_runner.insight.format import about, count, timestamp
from swh_sched_runner.insight.reason import BrokerFacts, Reason
from swh_sched_runner.insight.waiting import no_runner, queue_full, queue_paused, queue_unreadable
from swh_sched_runner.model import Timestamp, TimestampText

SEND_AGAIN = 'SchedulerBackend.set_status_tasks([{task}], status="next_run_not_scheduled")'
END_AS_LOST = 'SchedulerBackend.end_task_run("{run}", "lost")'


def in_flight(facts: TaskFacts, seen: BrokerFacts) -> list[Reason]:
    """Where it is, first; then what else is known to be in its way."""
    run = facts.run
    if run is None or run.ended is not None:
        text = (
            "marked as scheduled, but it has no open run that an event could end: grab_ready_tasks or "
            "grab_ready_priority_tasks took it, or an operator set its status"
        )
        return [Reason("no_run", text, f"to have it sent: {SEND_AGAIN.format(task=facts.task)}")]
    if run.started is None and run.worker is None and facts.unconfirmed is not None:
        return [*_unconfirmed(facts, facts.unconfirmed, seen)]
    return [_where(facts, run, seen), *_missing_events(run, seen)]


def _unconfirmed(facts: TaskFacts, unconfirmed: Unconfirmed, seen: BrokerFacts) -> Iterator[Reason]:
    """A paused queue decides; whether there is capacity, and who sends, is told as well."""
    if paused := queue_paused(facts):
        yield paused
    alive = "alive" if unconfirmed.alive else "gone"
    text = (
        f"in the outbox since {timestamp(unconfirmed.opened)} UTC: batch {unconfirmed.batch} for queue "
        f"{unconfirmed.queue}, of dispatcher session {unconfirmed.session_id} ({unconfirmed.host}:{unconfirmed.pid}, "
        f"{alive}), is not confirmed by the broker yet"
    )
    successor = None if unconfirmed.alive else "another runner takes it over within half a minute"
    yield Reason("unconfirmed", text, successor if facts.living_runners else None)
    others = (no_runner(facts), queue_unreadable(facts, seen), queue_full(facts, seen))
    yield from (reason for reason in others if reason)


def _where(facts: TaskFacts, run: Run, seen: BrokerFacts) -> Reason:
    attempt = f", attempt {run.attempts}" if run.attempts and run.attempts > 1 else ""
    if run.started is not None:
        worker = f"worker {run.worker}" if run.worker else "a worker"
        running = _running(facts, run.started)
        text = f"started on {worker} at {timestamp(run.started)} UTC{attempt}, running{running} as {run.backend_id}"
        return Reason("started", text)
    if run.worker is not None:
        busy = "not started: it is busy with other tasks"
        text = f"received by worker {run.worker}{attempt} and {busy}; {_sent(facts, run)}"
        return Reason("received", text)
    if seen.queue is None:
        why = seen.unreadable or seen.missing or "not asked"
        return Reason("sent", f"{_sent(facts, run)} and not received; the queue can't be seen: {why}")
    return _unreceived(facts, run, seen.queue)


def _unreceived(facts: TaskFacts, run: Run, queue: QueueInfo) -> Reason:
    sent = f"{_sent(facts, run)} and not received"
    if queue.holds is False:
        gone = "the queue no longer contains it" if queue.exists else "the queue no longer exists"
        text = (
            f"{sent}, and {gone}: a worker took it and its event has not arrived or is never sent, or the queue was "
            "purged, or the worker crashed"
        )
        lost = END_AS_LOST.format(run=run.backend_id)
        advice = f"if no worker has it (celery inspect query_task {run.backend_id}): {lost}"
        return Reason("not_in_queue", text, advice)
    waiting = f"{count(queue.depth, 'message')} {'waits' if queue.depth == 1 else 'wait'} there"
    if queue.consumers == 0:
        name = quote(facts.queue)
        advice = f"start a worker with -Q {name}, or make one consume it: celery control add_consumer {name}"
        return Reason("no_consumer", f"{sent}: no worker consumes the queue; {waiting}", advice)
    if queue.ahead is not None:
        waiting += f", {queue.ahead:,} of them before it"
    if queue.consumers is None:
        advice = "whether a worker consumes the queue is unknown here: celery inspect active_queues"
        return Reason("queued", f"{sent}: {waiting}", advice)
    return Reason("queued", f"{sent}: {waiting}, for {count(queue.consumers, 'consumer')}")


def _missing_events(run: Run, seen: BrokerFacts) -> Iterator[Reason]:
    """Why no more events of the run may come."""
    if seen.worker_lives is False:
        text = f"worker {run.worker} is not connected: it crashed, is reconnecting, or runs without remote control"
        yield Reason("worker_gone", text, f"if it crashed: {END_AS_LOST.format(run=run.backend_id)}")
    if run.undecided is not None:
        yield Reason("undecided", f"the rescuer can't tell whether it is lost, by {run.undecided}")
    events = seen.events
    if events is not None and events.consumers == 0:
        text = (
            f"no listener is running, {count(events.depth, 'message')} from workers not recorded: this may be outdated"
        )
        yield Reason("no_listener", text, "start one: swh-sched-runner listen, or up")
    elif events is not None and events.depth:
        text = f"{count(events.depth, 'message')} from workers not recorded yet: this may be outdated"
        yield Reason("events_waiting", text)


def _running(facts: TaskFacts, started: Timestamp) -> str:
    return "" if isinstance(started, TimestampText) else f" for {about(max(facts.now - started, timedelta(0)))}"


def _sent(facts: TaskFacts, run: Run) -> str:
    at = f" at {timestamp(run.scheduled)} UTC" if run.scheduled else ""
    return f"sent{at} as {run.backend_id} to queue {facts.queue}"
