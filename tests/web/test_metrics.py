"""``/metrics``: what is measured, what the database says, and that it is documented."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain
from sqlalchemy import text

from swh_sched_runner import __version__
from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.backend.workers.life import WorkerKey, WorkerSign
from swh_sched_runner.backend.workers.lives import Signs
from swh_sched_runner.db.engine import Database, connect, create_engine
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.web import metrics
from swh_sched_runner.web.server import Page
from tests.support.sources import CHECKOUT

REFERENCE = CHECKOUT / "docs/reference/metrics.md"
PREFIX = "swh_sched_runner_"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def headers(**values: str) -> Message:
    message = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


def families(page: Page) -> dict[str, Metric]:
    return {family.name: family for family in plain(page.body.decode())}


def samples(page: Page) -> dict[tuple[str, ...], float]:
    """Value by name and label values."""
    found = families(page).values()
    return {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in found
        for sample in family.samples
    }


def used(instruments: Instruments) -> Instruments:
    """The same, after everything was measured once."""
    instruments.dispatched("look", "q", 1)
    instruments.queue_seen("q", 1, 2)
    instruments.blocked("q", "full")
    instruments.grabbed("look", 1, 0.1)
    instruments.sent("q", 1, 0.1)
    instruments.lag("look", 0.1)
    instruments.oldest_due({("look", False): 1.0})
    instruments.round_done(0.1)
    instruments.woken("due")
    instruments.events("task-started", 1)
    instruments.runs_ended("eventful", 1)
    instruments.rejected(1)
    instruments.dead_letters("maxlen", 1)
    instruments.event_queue("q", 1)
    instruments.event_lag(0.1)
    instruments.runs_pruned("look", 1)
    instruments.verdict("worker died")
    instruments.undecided({"3": 1})
    return instruments


@pytest.fixture
def dispatched(backend: SchedulerBackend, database: Database) -> None:
    """Three tasks in flight in an open batch, one due, a rejected event, a worker of which two events are missing."""
    backend.create_task_type(
        {"type": "look", "description": "d", "backend_name": "q", "default_interval": timedelta(days=1)}
    )
    due = datetime.now(UTC) - timedelta(hours=1)
    backend.create_tasks(
        [{"type": "look", "arguments": {"args": [n], "kwargs": {}}, "next_run": due} for n in range(4)]
    )
    dispatch = Dispatch(database)
    session = dispatch.open_session()
    [group] = dispatch.ready_snapshot(()).groups
    assert dispatch.open_batch(session.id, "q", group, 3) is not None
    session.close()
    dispatch.record_events([], [Rejection.of("unknown", b"{}")])
    beat = WorkerSign(WorkerKey("w1@here", 1, None), "heartbeat", datetime.now(UTC), 1, 2)
    dispatch.record_events([], (), Signs([beat]))
    with database.engine.begin() as conn:
        conn.execute(text("update worker set missing = 2"))


@pytest.mark.usefixtures("dispatched")
def test_the_database_s_view_is_shown_with_what_the_process_measured(database: Database) -> None:
    before = time.time()

    shown = samples(metrics.page(used(Instruments()).registry, database)(headers()))

    assert shown["database_up",] == 1
    assert (shown["open_batches",], shown["outbox_messages",]) == (1, 3)
    assert before - 600 < shown["oldest_batch_timestamp_seconds",] < time.time()
    assert shown["in_flight_tasks", "look"] == 3
    assert shown["rejected_event_rows",] == 1
    assert shown["worker_missing_events", "w1@here"] == 2
    assert abs(shown["worker_clock_offset_seconds", "w1@here"]) < 60
    assert shown["dispatched_total", "q", "look"] == 1
    assert shown["process_resident_memory_bytes",] > 1_000_000
    assert [key[1:] for key in shown if key[0] == "build_info"] == [(metrics.platform.python_version(), __version__)]


def test_visits_count_among_the_messages_of_the_outbox(database: Database) -> None:
    def put(conn, /):  # type: ignore[no-untyped-def]
        conn.execute(text("insert into dispatcher_session (id, host, pid, backend_pid) values (1, 'h', 1, 1)"))
        conn.execute(text("insert into dispatch_batch (session_id, queue, visits) values (1, 'q', '[1, 2, 3, 4, 5]')"))
        conn.execute(text("insert into dispatch_batch (session_id, queue, runs) values (1, 'q', array[1, 2])"))

    database.run(put)

    shown = samples(metrics.page(Instruments().registry, database)(headers()))

    assert (shown["open_batches",], shown["outbox_messages",]) == (2, 7)


@pytest.mark.parametrize(("accept", "read"), [("", plain), (OPEN_METRICS, open_metrics)], ids=["text", "OpenMetrics"])
def test_both_formats_can_be_read(accept: str, read: Callable[[str], list[Metric]], database: Database) -> None:
    page = metrics.page(used(Instruments()).registry, database)(headers(Accept=accept))

    found = {family.name for family in read(page.body.decode())}

    assert page.content_type.startswith(accept.partition(";")[0] or "text/plain; version=0.0.4")
    assert f"{PREFIX}queue_length" in found
    assert f"{PREFIX}schedule_lag_seconds" in found


def test_what_prometheus_wants_compressed_is_compressed(database: Database) -> None:
    page = metrics.page(used(Instruments()).registry, database)(headers(Accept_Encoding="deflate, gzip"))

    assert page.headers == {"Content-Encoding": "gzip"}
    assert b"swh_sched_runner_queue_length" in gzip.decompress(page.body)


def test_without_a_database_the_rest_is_shown(tmp_path: Path) -> None:
    database = Database(create_engine(f"postgresql://user:hidden@/db?host={tmp_path}"))

    shown = samples(metrics.page(used(Instruments()).registry, database)(headers()))

    assert shown["database_up",] == 0
    assert ("open_batches",) not in shown
    assert shown["dispatched_total", "q", "look"] == 1


def test_a_database_that_hangs_is_given_up_and_asked_again_later(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a lock that the readings wait for
    monkeypatch.setattr(metrics, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(metrics, "KEPT_SECONDS", 0.0)
    page = metrics.page(Instruments().registry, database)
    lock = connect(database_url)
    lock.cursor().execute("lock table dispatch_batch")
    # when
    began = time.monotonic()
    during = samples(page(headers()))
    seconds = time.monotonic() - began
    lock.close()
    # then
    assert during["database_up",] == 0
    assert seconds < 15  # a statement may take 20 s
    deadline = time.monotonic() + 20
    while samples(page(headers()))["database_up",] == 0:
        assert time.monotonic() < deadline


def test_readings_are_kept_for_a_while(database: Database, dispatched: None) -> None:
    page = metrics.page(Instruments().registry, database)
    first = samples(page(headers()))
    database.run(lambda conn: conn.execute(text("delete from rejected_event")) and None)

    assert samples(page(headers()))["rejected_event_rows",] == first["rejected_event_rows",] == 1


@pytest.mark.usefixtures("dispatched")
def test_every_metric_is_documented_with_its_kind_and_labels(database: Database) -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\w+) \|([^|]*)\|", REFERENCE.read_text(), re.MULTILINE)
    documented = {
        name: (kind, set(re.findall(r"\w+", labels)))
        for names, kind, labels in rows
        for name in re.findall(r"\w+", names)
    }

    shown = families(metrics.page(used(Instruments()).registry, database)(headers()))

    assert documented == dict(map(described, shown.values()))


def described(family: Metric) -> tuple[str, tuple[str, set[str]]]:
    """Name, and kind and labels, as the reference has them."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels: Mapping[str, str] = family.samples[0].labels
    return name, (family.type, set(labels) - {"le"})
