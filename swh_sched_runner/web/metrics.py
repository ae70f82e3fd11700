"""``/metrics``: what the process has measured, what the database says now, and the process itself."""

from __future__ import annotations

import gzip
import platform
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.message import Message

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from swh_sched_runner import __version__
from swh_sched_runner.db.engine import Database
from swh_sched_runner.insight.status import Flow, read_flow
from swh_sched_runner.model import TimestampText
from swh_sched_runner.web.recent import Recent
from swh_sched_runner.web.server import Page

PREFIX = "swh_sched_runner_"
KEPT_SECONDS = 5.0
PATIENCE_SECONDS = 2.0
LONGEST_ACCEPT = 2048
_VERSION = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){2}")

log = structlog.get_logger(__name__)


def page(measured: CollectorRegistry, database: Database) -> Callable[[Message], Page]:
    """The page, in the text format of Prometheus or, where it is asked for, of OpenMetrics. Never fails."""
    registry = CollectorRegistry()
    for collector in (_Build(), ProcessCollector(registry=None), _InDatabase(database), _WithoutCreated(measured)):
        registry.register(collector)

    def answer(headers: Message) -> Page:
        encode, content_type = choose_encoder(_readable(headers.get("Accept", "")))
        body = encode(registry)
        if not gzip_accepted(headers.get("Accept-Encoding", "")):
            return Page(body, content_type)
        return Page(gzip.compress(body, compresslevel=1), content_type, headers={"Content-Encoding": "gzip"})

    return answer


def _readable(accept: str) -> str:
    """``Accept`` without the types whose version the client library would stumble over; the plain format is left."""

    def readable(one: str) -> bool:
        versions = re.findall(r"version\s*=([^;]*)", one)
        return one.isascii() and all(_VERSION.fullmatch(version.strip()) for version in versions)

    return ",".join(filter(readable, accept[:LONGEST_ACCEPT].split(",")))


class _Build(Collector):
    """Which version runs."""

    def collect(self) -> Iterator[Metric]:
        facts = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily(f"{PREFIX}build", "Version of the program and of Python", facts)


class _WithoutCreated(Collector):
    """A registry without the timestamps when its series began: one more series for each, which nobody reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class _InDatabase(Collector):
    """Metrics read from the database at each scrape. On an error only ``database_up`` 0."""

    def __init__(self, database: Database) -> None:
        limit = timedelta(seconds=PATIENCE_SECONDS)
        self._answered = True
        self._flow = Recent(
            lambda: read_flow(database, limit), kept_seconds=KEPT_SECONDS, patience_seconds=PATIENCE_SECONDS
        )

    def collect(self) -> Iterator[Metric]:
        try:
            found = self._flow.get()
        except Exception as error:  # of any kind: the other metrics are served anyway
            if self._answered:
                log.warning("metrics of the database are missing", reason=str(error))
            self._answered = False
            yield _gauge("database_up", "1 if the database answered at this scrape", 0)
        else:
            self._answered = True
            yield _gauge("database_up", "1 if the database answered at this scrape", 1)
            yield from _measures(found)


def _measures(found: Flow) -> Iterator[Metric]:
    outbox = found.outbox
    yield _gauge("open_batches", "Batches in the outbox, not fully confirmed", outbox.batches)
    yield _gauge("outbox_messages", "Messages in the outbox", outbox.messages)
    if outbox.oldest is not None and not isinstance(outbox.oldest, TimestampText):
        yield _gauge(
            "oldest_batch_timestamp_seconds",
            "When the oldest batch in the outbox was opened",
            outbox.oldest.timestamp(),
        )
    yield _gauge("rejected_event_rows", "Rows of the table rejected_event", outbox.rejected)
    in_flight = GaugeMetricFamily(f"{PREFIX}in_flight_tasks", "Tasks taken and not ended", labels=["task_type"])
    for task_type, tasks in found.in_flight.items():
        in_flight.add_metric([task_type], tasks)
    yield in_flight
    missing = GaugeMetricFamily(
        f"{PREFIX}worker_missing_events", "Executions that a worker began without a task-started", labels=["worker"]
    )
    offset = GaugeMetricFamily(
        f"{PREFIX}worker_clock_offset_seconds", "How late heartbeats arrive by the worker's clock", labels=["worker"]
    )
    for worker in found.workers:
        if worker.missing_events is not None:
            missing.add_metric([worker.hostname], worker.missing_events)
        if worker.clock_offset_seconds is not None:
            offset.add_metric([worker.hostname], worker.clock_offset_seconds)
    yield missing
    yield offset


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value)
