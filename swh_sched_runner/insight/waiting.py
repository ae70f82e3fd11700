"""Why a task that no runner has taken yet still waits: every reason, whether it holds, and its text."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from shlex import quote

from swh_sched_runner.backend.inspection.explain import Ahead, TaskFacts
from swh_sched_runner.insight.format import about, count, end_of, timestamp
from swh_sched_runner.insight.reason import BrokerFacts, Reason
from swh_sched_runner.model import Pause, TimestampText

# Confirms take milliseconds. A batch that is open for longer waits for its broker, for capacity, or for a successor.
OPEN_BATCH_AGE = timedelta(seconds=10)
RUN_NOW = 'SchedulerBackend.set_status_tasks([{task}], "next_run_not_scheduled", datetime.now(UTC))'
# A longer wait is told as longer than this.
LONGEST_WAIT = timedelta(days=36_500)


def waiting(facts: TaskFacts, seen: BrokerFacts) -> list[Reason]:
    """All that holds the task back, what decides first. Of a task that is not due only what may last until it is."""
    reasons = [reason for check in _CHECKS if (reason := check(facts))]
    if facts.due:
        reasons += [reason for check in _CHECKS_IF_DUE if (reason := check(facts, seen))]
        reasons = reasons or [_ready(facts, seen)]
    return reasons


def queue_paused(facts: TaskFacts) -> Reason | None:
    """That an operator lets nothing be sent to the queue."""
    pause = facts.of_queue.pause
    if pause is None:
        return None
    advice = f"swh-sched-runner queue resume {quote(facts.queue)}"
    return Reason("queue_paused", f"queue {facts.queue} is paused {_since(pause)}", advice)


def no_runner(facts: TaskFacts) -> Reason | None:
    """That no runner is there to send anything."""
    if facts.living_runners:
        return None
    due = f"due since {timestamp(facts.next_run)} UTC, and " if facts.due else ""
    return Reason("no_runner", f"{due}no runner is alive", "start one: swh-sched-runner run, or up")


def queue_unreadable(facts: TaskFacts, seen: BrokerFacts) -> Reason | None:
    """That the capacity of the queue is unknown."""
    if seen.unreadable is None:
        return None
    text = f"nothing is sent to queue {facts.queue} because its length can't be read: {seen.unreadable}"
    return Reason("queue_unreadable", text)


def queue_full(facts: TaskFacts, seen: BrokerFacts) -> Reason | None:
    """That the queue is full."""
    if seen.queue is None or facts.max_queue_length is None or seen.queue.depth < facts.max_queue_length:
        return None
    if facts.max_queue_length == 0:
        return Reason("queue_full", f"queue {facts.queue} has max_queue_length 0: nothing is sent to it")
    full = f"queue {facts.queue} is full ({seen.queue.depth:,}/{facts.max_queue_length:,})"
    ahead = facts.ahead or Ahead(0, 0, False)
    before = f", and {_tasks(ahead)} before it" if ahead.tasks else ""
    wait = _time_for(seen.queue.depth - facts.max_queue_length + ahead.tasks + 1, facts.of_queue.drain_rate)
    if wait is None:
        return Reason("queue_full", f"{full}{before}; the wait is not known yet")
    expected = f"{_when(wait, ahead)}, if workers keep taking {facts.of_queue.drain_rate:.3g} messages a second"
    return Reason("queue_full", f"{full}{before}; it is expected to be sent {expected}", None, wait)


def _not_due(facts: TaskFacts) -> Reason | None:
    if facts.due:
        return None
    run = facts.run
    last = f"; its last run {run.id} {end_of(run.status, run.ended, run.error)}" if run and run.moved else ""
    until = f"not due until {timestamp(facts.next_run)} UTC"
    if isinstance(facts.next_run, TimestampText):
        return Reason("not_due", f"{until}{last}", f"to have it run: {RUN_NOW.format(task=facts.task)}")
    wait = facts.next_run - facts.now
    return Reason("not_due", f"{until}, in {about(wait)}{last}", None, wait)


def _type_paused(facts: TaskFacts) -> Reason | None:
    if facts.type_pause is None:
        return None
    advice = f"swh-sched-runner task-type resume {quote(facts.type)}"
    return Reason("type_paused", f"task type {facts.type} is paused {_since(facts.type_pause)}", advice)


def _in_flight_cap(facts: TaskFacts, seen: BrokerFacts) -> Reason | None:
    if facts.max_in_flight is None or facts.in_flight is None or facts.in_flight < facts.max_in_flight:
        return None
    text = (
        f"{facts.in_flight:,}/{facts.max_in_flight:,} tasks of type {facts.type} are in flight: "
        "no more are sent until enough of them have ended"
    )
    advice = f"to raise it: swh-sched-runner task-type set {quote(facts.type)} --max-in-flight N"
    return Reason("in_flight_cap", text, advice)


def _rate_limit(facts: TaskFacts, seen: BrokerFacts) -> Reason | None:
    ahead = facts.ahead or Ahead(0, 0, False)
    if facts.rate_limit is None or facts.tokens is None or facts.tokens >= ahead.tasks + 1:
        return None
    wait = _time_for(ahead.tasks + 1 - facts.tokens, facts.rate_limit)
    before = f"; {_tasks(ahead)} before it" if ahead.tasks else ""
    text = (
        f"the rate limit of task type {facts.type}, {facts.rate_limit:g} a second, allows "
        f"{count(int(max(facts.tokens, 0)), 'task')} now{before}; this task is allowed {_when(wait, ahead)}"
    )
    advice = f"to raise it: swh-sched-runner task-type set {quote(facts.type)} --rate-limit N"
    return Reason("rate_limit", text, advice, wait)


def _open_batch(facts: TaskFacts, seen: BrokerFacts) -> Reason | None:
    opened = facts.of_queue.oldest_batch
    if opened is None or opened > facts.now - OPEN_BATCH_AGE:
        return None
    text = f"batch for queue {facts.queue} opened at {timestamp(opened)} UTC is not fully confirmed; it is sent first"
    return Reason("open_batch", text)


def _behind(facts: TaskFacts, seen: BrokerFacts) -> Reason | None:
    ahead = facts.ahead
    if ahead is None or not ahead.tasks:
        return None
    text = f"due since {timestamp(facts.next_run)} UTC, waiting behind {_tasks(ahead)}"
    limit = facts.max_queue_length
    capacity = None if seen.queue is None or limit is None else limit - seen.queue.depth
    if capacity is None or capacity <= 0 or ahead.tasks < capacity:
        return Reason("behind", text)
    wait = _time_for(ahead.tasks + 1 - capacity, facts.of_queue.drain_rate)
    expected = "" if wait is None else f"; it is expected to be sent {_when(wait, ahead)}"
    return Reason("behind", f"{text}, more than the capacity of the queue ({capacity:,}){expected}", None, wait)


def _ready(facts: TaskFacts, seen: BrokerFacts) -> Reason:
    unless = f"; the queue can't be seen: {seen.missing}" if seen.missing else ""
    text = f"due since {timestamp(facts.next_run)} UTC, next to be taken, and nothing known prevents it{unless}"
    advice = f"runners alive: {facts.living_runners}; runners with other types in runner.task_types skip it"
    return Reason("ready", text, advice)


_CHECKS: tuple[Callable[[TaskFacts], Reason | None], ...] = (_not_due, _type_paused, queue_paused, no_runner)
_CHECKS_IF_DUE: tuple[Callable[[TaskFacts, BrokerFacts], Reason | None], ...] = (
    _in_flight_cap,
    _rate_limit,
    queue_unreadable,
    queue_full,
    _open_batch,
    _behind,
)


def _since(pause: Pause) -> str:
    by = f" by {pause.by}" if pause.by else ""
    return f"since {timestamp(pause.since)} UTC{by}" + (f": {pause.reason}" if pause.reason else "")


def _tasks(ahead: Ahead) -> str:
    """How many come before, and of which kind."""
    kinds = ((ahead.higher, "of higher priority"), (ahead.earlier, "due earlier"))
    text = " and ".join(f"{count(number, 'task')} {kind}" for number, kind in kinds if number)
    return f"more than {text}" if ahead.more else text


def _time_for(tasks: float, rate: float | None) -> timedelta | None:
    """How long so many take at so many a second."""
    if rate is None or not rate > 0:
        return None
    seconds = tasks / rate
    return timedelta(seconds=seconds) if seconds < LONGEST_WAIT.total_seconds() else LONGEST_WAIT


def _when(wait: timedelta | None, ahead: Ahead) -> str:
    if wait is None:
        return "at an unknown time"
    return f"in {'more than' if ahead.more or wait == LONGEST_WAIT else 'about'} {about(wait)}"
