"""What the services measure of themselves, for Prometheus. Every name is explained in docs/reference/metrics.md."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "swh_sched_runner_"
# A grab or a send takes milliseconds, and a minute when a server is in trouble. No more buckets than tell something:
# each is one more series for every type or queue, and 10,000 series cost 140 ms of CPU a scrape.
WORK_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
# A lag is milliseconds while the queue has capacity, and as long as the backlog when it is full.
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
BATCH_TASKS = (1, 10, 50, 100, 500, 1000, 5000)


class Instruments:
    """Counters, gauges and histograms of one process, in a ``registry`` of their own. Any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` answers in seconds and never goes back."""
        self.registry = CollectorRegistry()
        self._queues = _Queues(clock)
        self._oldest_due = _OldestDue()
        self._measure_dispatch()
        self._measure_listening()
        self._measure_maintenance()
        self.registry.register(self._queues)
        self.registry.register(self._oldest_due)

    def _measure_dispatch(self) -> None:
        self._dispatched = self._counter("dispatched", "Messages confirmed when first sent", "task_type", "queue")
        self._resent = self._counter("resent", "Messages that were sent again and confirmed", "queue")
        self._unsendable = self._counter("unsendable", "Messages that can never be sent; their runs failed", "queue")
        self._unconfirmed = self._counter(
            "unconfirmed", "Messages sent but not confirmed; they are sent again", "queue"
        )
        self._batch = self._histogram("batch_tasks", "Tasks taken by a grab", BATCH_TASKS, "task_type")
        self._grab = self._histogram("grab_seconds", "Duration of a grab", WORK_SECONDS, "task_type")
        self._send = self._histogram("send_seconds", "Batch: from first write to last confirm", WORK_SECONDS, "queue")
        self._lag = self._histogram(
            "schedule_lag_seconds",
            "Batch: from when its oldest task was due to its last confirm",
            LAG_SECONDS,
            "task_type",
        )
        self._round = self._histogram("round_seconds", "Duration of a round over all queues", WORK_SECONDS)
        self._woken = self._counter("wakeups", "Ends of the runner's sleep, by reason", "reason")

    def _measure_listening(self) -> None:
        self._events = self._counter("events", "Events received, by Celery's name of their type", "kind")
        self._ended = self._counter("runs_ended", "Ends of runs that were recorded, by status", "status")
        self._rejected = self._counter(
            "events_rejected", "Messages that could not be read, and events refused as wrong data"
        )
        self._dropped = self._counter("rejected_events_dropped", "Rows dropped from the table rejected_event")
        self._held = self._gauge("events_awaiting_retry", "Unacknowledged messages that the database currently refuses")
        self._dead = self._counter("dead_letters", "Messages taken out of the dead-letter queue of events", "reason")
        self._event_queue = self._gauge("event_queue_length", "Messages ready in a queue of events", "queue")
        self._event_lag = self._gauge("event_lag_seconds", "How old the oldest event of the last batch was")

    def _measure_maintenance(self) -> None:
        self._pruned = self._counter("runs_pruned", "Ended runs that were deleted, as old as that", "task_type")
        self._verdicts = self._counter("verdicts", "Runs that the rescuer ended, by verdict", "verdict")
        self._undecided = self._gauge("undecided_runs", "Open runs that the rescuer can't judge, by rule", "rule")
        self._withheld = self._gauge("verdicts_withheld", "Verdicts of the last round that were too many to be right")

    def dispatched(self, task_type: str, queue: str, messages: int) -> None:
        """So many messages of one task type were confirmed for the first time."""
        self._dispatched.labels(task_type, queue).inc(messages)

    def resent(self, queue: str, messages: int) -> None:
        """So many messages were sent again and confirmed."""
        self._resent.labels(queue).inc(messages)

    def unconfirmed(self, queue: str, messages: int) -> None:
        """So many messages were sent, and whether the broker has them is not known."""
        self._unconfirmed.labels(queue).inc(messages)

    def unsendable(self, queue: str, messages: int) -> None:
        """So many messages can never be sent."""
        self._unsendable.labels(queue).inc(messages)

    def queue_seen(self, queue: str, depth: int | None, max_queue_length: int | None) -> None:
        """So many messages are ready in a queue, None if that can't be read; and its limit, None if it has none."""
        self._queues.see(queue, depth, max_queue_length)
        self._resent.labels(queue)  # from 0 on: a rate needs to see the first one come
        self._unconfirmed.labels(queue)
        self._unsendable.labels(queue)

    def blocked(self, queue: str, reason: str | None) -> None:
        """Nothing is sent to a queue from now on though tasks for it are due, for that reason; None ends it.

        Reasons: full, paused, in_flight, rate, leased_elsewhere, unreadable, open_batch.
        """
        self._queues.block(queue, reason)

    def grabbed(self, task_type: str, tasks: int, seconds: float) -> None:
        """A grab took so many tasks, none if there was nothing to take, and so long."""
        self._grab.labels(task_type).observe(seconds)
        if tasks:
            self._batch.labels(task_type).observe(tasks)

    def sent(self, queue: str, messages: int, seconds: float) -> None:
        """So many messages were all confirmed, so long after the first was written."""
        if messages:
            self._send.labels(queue).observe(seconds)

    def lag(self, task_type: str, seconds: float) -> None:
        """The oldest task of a batch was confirmed so long after it was due."""
        self._lag.labels(task_type).observe(max(0.0, seconds))

    def oldest_due(self, lags: Mapping[tuple[str, bool], float]) -> None:
        """The oldest due task of each (type, whether with priority) waits so long; of no others is any due."""
        self._oldest_due.see(lags)

    def round_done(self, seconds: float) -> None:
        """A round took so long."""
        self._round.observe(seconds)

    def woken(self, reason: str) -> None:
        """The runner stopped waiting: notified, due, probe or poll."""
        self._woken.labels(reason).inc()

    def events(self, kind: str, n: int) -> None:
        """So many events of a type were received. Not for types that anybody may make up."""
        self._events.labels(kind).inc(n)

    def runs_ended(self, status: str, n: int) -> None:
        """So many ends of runs were recorded."""
        self._ended.labels(status).inc(n)

    def rejected(self, n: int) -> None:
        """So many messages could not be read, or events not be recorded."""
        self._rejected.inc(n)

    def rejected_dropped(self, n: int) -> None:
        """So many rows of what was rejected were dropped, since it was too much or too old."""
        self._dropped.inc(n)

    def held(self, messages: int) -> None:
        """So many messages are kept in hand, since the database refuses what they say for now."""
        self._held.set(messages)

    def dead_letters(self, reason: str, n: int) -> None:
        """So many messages came out of the dead-letter queue. Not for reasons that anybody may make up."""
        self._dead.labels(reason).inc(n)

    def event_queue(self, queue: str, messages: int) -> None:
        """So many messages are ready in the event queue, or in its dead-letter queue."""
        self._event_queue.labels(queue).set(messages)

    def event_lag(self, seconds: float) -> None:
        """The oldest event of the batch that was recorded last was so old then; 0 when none waits."""
        self._event_lag.set(max(0.0, seconds))

    def runs_pruned(self, task_type: str, n: int) -> None:
        """So many ended runs of a type were deleted."""
        self._pruned.labels(task_type).inc(n)

    def verdict(self, verdict: str) -> None:
        """The rescuer ended a run."""
        self._verdicts.labels(verdict).inc()

    def undecided(self, runs: Mapping[str, int]) -> None:
        """So many runs can't be judged, by rule; of other rules none."""
        self._undecided.clear()
        for rule, n in runs.items():
            self._undecided.labels(rule).set(n)

    def verdicts_withheld(self, n: int) -> None:
        """So many verdicts of a round were not applied, since they were too many."""
        self._withheld.set(n)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, text, labels, buckets=buckets, registry=self.registry)


class _Queues(Collector):
    """What was last seen of each queue, and for how long which reason has kept messages from it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int | None, int | None]] = {}
        self._blocked: dict[str, tuple[str, float]] = {}  # by queue: the reason, and since when
        self._blocked_seconds: dict[tuple[str, str], float] = {}

    def see(self, queue: str, depth: int | None, max_queue_length: int | None) -> None:
        with self._lock:
            self._seen[queue] = depth, max_queue_length

    def block(self, queue: str, reason: str | None) -> None:
        with self._lock:
            now = self._clock()
            before, since = self._blocked.get(queue, (None, now))
            if reason == before:
                return
            if before is not None:
                self._blocked_seconds[queue, before] += now - since
            if reason is None:
                del self._blocked[queue]
            else:
                self._blocked[queue] = reason, now
                self._blocked_seconds.setdefault((queue, reason), 0.0)

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            now = self._clock()
            seen, blocked, seconds = dict(self._seen), dict(self._blocked), dict(self._blocked_seconds)
        for queue, (reason, since) in blocked.items():
            seconds[queue, reason] += now - since
        length = GaugeMetricFamily(f"{PREFIX}queue_length", "Ready messages in a queue, as last seen", labels=["queue"])
        limit = GaugeMetricFamily(f"{PREFIX}max_queue_length", "Limit of a queue", labels=["queue"])
        unreadable = GaugeMetricFamily(
            f"{PREFIX}queue_unreadable", "1 while the length of a queue can't be read", labels=["queue"]
        )
        for queue, (depth, max_queue_length) in seen.items():
            unreadable.add_metric([queue], depth is None)
            if depth is not None:
                length.add_metric([queue], depth)
            if max_queue_length is not None:
                limit.add_metric([queue], max_queue_length)
        waited = CounterMetricFamily(
            f"{PREFIX}blocked_seconds", "Time for which due tasks were not sent to a queue", labels=["queue", "reason"]
        )
        for labels, total in seconds.items():
            waited.add_metric(labels, total)
        return length, limit, unreadable, waited


class _OldestDue(Collector):
    """How long the oldest due task of each group had waited when the runner last looked."""

    def __init__(self) -> None:
        self._lags: Mapping[tuple[str, bool], float] = {}

    def see(self, lags: Mapping[tuple[str, bool], float]) -> None:
        self._lags = dict(lags)

    def collect(self) -> Iterator[Metric]:
        oldest = GaugeMetricFamily(
            f"{PREFIX}oldest_due_seconds",
            "How long the oldest due task had waited when the runner last looked",
            labels=["task_type", "priority"],
        )
        for (task_type, priority), seconds in self._lags.items():
            oldest.add_metric([task_type, str(priority).lower()], max(0.0, seconds))
        yield oldest
