"""Values that no door lets in, and rows that others wrote all the same: every read shows them, every end goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.inspection import status as facts
from swh_sched_runner.db.engine import Database
from swh_sched_runner.exc import InvalidArgument
from swh_sched_runner.model import Lister, OriginVisitStats, TaskRun, TimestampText
from tests.cli.conftest import Run, environ, run
from tests.support.origins import a_lister, an_origin, an_outcome, url_of

pytestmark = pytest.mark.slow

__all__ = ["environ", "run"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOO_EARLY = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
TOO_LATE = datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-14)))
LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
BEYOND = ("infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "10000-01-01 00:00:00+00", "294276-12-31 00:00:00+00")
DAY = timedelta(days=1)
BROKER = "SWH_SCHED_RUNNER_BROKER__URL"


def a_type(**more: Any) -> Any:
    return {"type": "load", "description": "d", "backend_name": "load", "default_interval": DAY} | more


def a_task(number: int = 0, **more: Any) -> Any:
    return {"type": "load", "arguments": {"args": [number], "kwargs": {}}, "next_run": NOW} | more


def a_run(backend: SchedulerBackend, backend_id: str = "m1", **more: Any) -> int:
    """A task with an open run."""
    (task,) = backend.create_tasks([a_task(**more)])
    backend.schedule_task_run(task["id"], backend_id, timestamp=NOW)
    return task["id"]


@pytest.fixture
def execute(engine: Engine) -> Callable[..., None]:
    """Writes rows as others do, beside the backend."""

    def execute(statement: str, **binds: Any) -> None:
        with engine.begin() as conn:
            conn.execute(text(statement), binds)

    return execute


# Doors. Each takes a timestamp, in the way that its name says.

Door = Callable[[SchedulerBackend, UUID, datetime], object]
MOMENT_DOORS: dict[str, Door] = {
    "next_run of create_tasks": lambda backend, _, timestamp: backend.create_tasks([a_task(5, next_run=timestamp)]),
    "next_run": lambda backend, _, timestamp: backend.set_status_tasks([1], "disabled", timestamp),
    "before": lambda backend, _, timestamp: backend.search_tasks(before=timestamp),
    "after": lambda backend, _, timestamp: backend.search_tasks(after=timestamp),
    "timestamp of peek": lambda backend, _, timestamp: backend.peek_ready_tasks("load", timestamp),
    "timestamp of grab": lambda backend, _, timestamp: backend.grab_ready_priority_tasks("load", timestamp),
    "scheduled of schedule_task_run": lambda backend, _, timestamp: backend.schedule_task_run(
        1, "m2", timestamp=timestamp
    ),
    "scheduled": lambda backend, _, timestamp: backend.mass_schedule_task_runs(
        [TaskRun(task=1, backend_id="m2", scheduled=timestamp)]
    ),
    "timestamp of start": lambda backend, _, timestamp: backend.start_task_run("m1", timestamp=timestamp),
    "timestamp of end": lambda backend, _, timestamp: backend.end_task_run("m1", "eventful", timestamp=timestamp),
    "after_ts": lambda backend, _, timestamp: backend.filter_task_to_archive(timestamp, NOW),
    "before_ts": lambda backend, _, timestamp: backend.filter_task_to_archive(NOW, timestamp.isoformat()),
    "last_update": lambda backend, lister, timestamp: backend.record_listed_origins(
        [an_origin(lister, last_update=timestamp)]
    ),
    "last_successful": lambda backend, _, timestamp: backend.origin_visit_stats_upsert(
        [OriginVisitStats(url_of(0), "git", last_successful=timestamp)]
    ),
    "last_visit": lambda backend, _, timestamp: backend.origin_visit_stats_upsert(
        [OriginVisitStats(url_of(0), "git", last_visit=timestamp)]
    ),
    "last_scheduled": lambda backend, _, timestamp: backend.origin_visit_stats_upsert(
        [OriginVisitStats(url_of(0), "git", last_scheduled=timestamp)]
    ),
    "date": lambda backend, _, timestamp: backend.record_visit_outcomes([an_outcome(date=timestamp)]),
    "lister.last_listing_finished_at": lambda backend, _, timestamp: backend.update_lister(
        a_changed(backend, last_listing_finished_at=timestamp)
    ),
    "lister.first_visits_scheduled_at": lambda backend, _, timestamp: backend.update_lister(
        a_changed(backend, first_visits_scheduled_at=timestamp)
    ),
    "lister.updated": lambda backend, _, timestamp: backend.update_lister(a_changed(backend, updated=timestamp)),
    "timestamp of visits": lambda backend, _, timestamp: backend.grab_next_visits(
        "git", 1, "oldest_scheduled_first", timestamp=timestamp
    ),
    "timestamp of metrics": lambda backend, _, timestamp: backend.update_metrics(timestamp=timestamp),
}


def a_changed(backend: SchedulerBackend, **changes: Any) -> Lister:
    (lister,) = backend.get_listers()
    for name, value in changes.items():
        setattr(lister, name, value)
    return lister


@pytest.mark.parametrize("door", MOMENT_DOORS)
def test_a_timestamp_of_no_year_that_python_knows_is_refused_by_name(backend: SchedulerBackend, door: str) -> None:
    backend.create_task_type(a_type())
    a_run(backend)
    lister = a_lister(backend)

    for timestamp in (TOO_EARLY, TOO_LATE):
        with pytest.raises(InvalidArgument, match=rf"^{door.split(' of ')[0]}: must lie in the years 1 to 9999"):
            MOMENT_DOORS[door](backend, lister, timestamp)

    assert [row["backend_id"] for row in backend.get_task_runs([1])] == ["m1"]
    assert len(backend.search_tasks()) == 1


@pytest.mark.parametrize("key", ["default_interval", "min_interval", "max_interval", "retry_delay"])
def test_an_interval_that_leads_beyond_the_year_9999_is_refused(backend: SchedulerBackend, key: str) -> None:
    for interval in (timedelta.max, timedelta(days=365_001)):
        with pytest.raises(InvalidArgument, match=rf"^{key}: must be at most 365000 days"):
            backend.create_task_type(a_type(**{key: interval}))

    backend.create_task_type(a_type(**{key: timedelta(days=365_000)}))
    assert len(backend.get_task_types()) == 1


@pytest.mark.parametrize("factor", [math.inf, math.nan, 10**400, 0, -1])
def test_a_factor_that_is_no_number_above_0_is_refused(backend: SchedulerBackend, factor: float) -> None:
    with pytest.raises(InvalidArgument, match=r"^backoff_factor: "):
        backend.create_task_type(a_type(backoff_factor=factor))


@pytest.mark.parametrize(
    ("status", "key"), [("uneventful", "default_interval"), ("failed", "retry_delay"), ("lost", "default_interval")]
)
def test_an_end_whose_sum_leaves_the_year_9999_is_followed_by_its_last_timestamp(
    backend: SchedulerBackend, status: str, key: str
) -> None:
    longest = timedelta(days=365_000)
    backend.create_task_type(
        a_type(**{key: longest, "backoff_factor": 1e300, "num_retries": int(key == "retry_delay")})
    )
    task = a_run(backend)

    backend.end_task_run("m1", status, timestamp=datetime(9500, 1, 1, tzinfo=UTC))

    assert backend.get_tasks([task])[0]["next_run"] == LAST


class _Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class _Surrogate:
    def __repr__(self) -> str:
        return "\udcff"


class _Silent:
    def __repr__(self) -> str:
        return 5  # type: ignore[return-value]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [_Unspeakable(), _Surrogate(), _Silent(), 10**5000, [10**5000], nested(5000), "\udcff", {"x": _Unspeakable()}],
    ids=["raises", "surrogate", "no text", "number", "numbers", "nested", "lone surrogate", "inside"],
)
def test_what_can_not_be_shown_is_refused_all_the_same(backend: SchedulerBackend, value: Any) -> None:
    backend.create_task_type(a_type())
    doors: list[tuple[str, Callable[[], object]]] = [
        ("arguments", lambda: backend.create_tasks([a_task(arguments={"args": [value], "kwargs": {}, "x": 1})])),
        ("next_run", lambda: backend.create_tasks([a_task(next_run=value)])),
        ("policy", lambda: backend.create_tasks([a_task()], policy=value)),
        ("status", lambda: backend.set_status_tasks([1], value)),
        ("backend_id", lambda: backend.schedule_task_run(1, value if value != "\udcff" else "")),
        ("count", lambda: backend.grab_next_visits("git", value, "oldest_scheduled_first")),
        ("url", lambda: backend.origin_visit_stats_get([(value, "git")])),
        ("page_token", lambda: backend.get_listed_origins(page_token=(value, "x"))),
        ("lister_uuid", lambda: backend.grab_next_visits("git", 1, "oldest_scheduled_first", lister_uuid=value)),
    ]

    for named, door in doors:
        if named == "url" and value == 10**5000:
            continue
        with pytest.raises(InvalidArgument) as caught:
            door()
        said = str(caught.value)
        assert ascii(said).strip("'\"").startswith(named)
        assert [hex(ord(character)) for character in said if "\ud800" <= character <= "\udfff"] == []


LONG = {
    "url": "https://forge.example/" + "é" * 1_100,
    "name": "n" * 501,
}
LENGTH_DOORS: dict[str, Callable[[SchedulerBackend, UUID], object]] = {
    "url of record_listed_origins": lambda backend, lister: backend.record_listed_origins(
        [an_origin(lister), an_origin(lister, url=LONG["url"])]
    ),
    "url of origin_visit_stats_upsert": lambda backend, _: backend.origin_visit_stats_upsert(
        [OriginVisitStats(url_of(0), "git"), OriginVisitStats(LONG["url"], "git")]
    ),
    "url of record_visit_outcomes": lambda backend, _: backend.record_visit_outcomes(
        [an_outcome(), an_outcome(url=LONG["url"])]
    ),
    "visit_type of record_listed_origins": lambda backend, lister: backend.record_listed_origins(
        [an_origin(lister, visit_type=LONG["name"])]
    ),
    "visit_type of origin_visit_stats_upsert": lambda backend, _: backend.origin_visit_stats_upsert(
        [OriginVisitStats(url_of(0), LONG["name"])]
    ),
    "visit_type of record_visit_outcomes": lambda backend, _: backend.record_visit_outcomes(
        [an_outcome(visit_type=LONG["name"])]
    ),
    "visit_type of a queue position": lambda backend, _: backend.visit_scheduler_queue_position_set(LONG["name"], 1),
    "visit_type of grab_next_visits": lambda backend, _: backend.grab_next_visits(
        LONG["name"], 1, "origins_without_last_update"
    ),
    "type of create_task_type": lambda backend, _: backend.create_task_type(a_type(type=LONG["name"])),
    "backend_name of create_task_type": lambda backend, _: backend.create_task_type(
        a_type(type="b", backend_name=LONG["name"])
    ),
    "backend_id of schedule_task_run": lambda backend, _: backend.schedule_task_run(1, LONG["name"]),
    "name of get_or_create_lister": lambda backend, _: backend.get_or_create_lister(LONG["name"]),
    "instance_name of get_or_create_lister": lambda backend, _: backend.get_or_create_lister("a", LONG["name"]),
    "queue of pause_queue": lambda backend, _: backend.pause_queue(LONG["name"]),
}


@pytest.mark.parametrize("door", LENGTH_DOORS)
def test_text_that_no_index_holds_is_refused_by_name_and_nothing_is_written(
    backend: SchedulerBackend, door: str
) -> None:
    backend.create_task_type(a_type())
    backend.create_tasks([a_task()])
    lister = a_lister(backend)

    with pytest.raises(InvalidArgument, match=rf"^{door.split(' of ')[0]}: must be at most \d+ bytes.*and has \d+"):
        LENGTH_DOORS[door](backend, lister)

    assert backend.get_listed_origins().results == []
    assert backend.origin_visit_stats_get([(url_of(0), "git")]) == []


def test_the_longest_texts_fit_into_every_index(backend: SchedulerBackend) -> None:
    scramble = "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(700))  # nothing that compresses
    name, url = scramble[:166] + "ab", "https://x/" + scramble[:679] + "a"
    assert (len(name.encode()), len(url.encode())) == (500, 2_048)
    lister = backend.get_or_create_lister(name, name)
    backend.create_task_type(a_type(type=name, backend_name=name[:85]))

    backend.record_listed_origins([an_origin(lister.id, url=url, visit_type=name)])
    backend.record_visit_outcomes([an_outcome(url=url, visit_type=name)])
    (task,) = backend.create_tasks([a_task(type=name, priority="low")])
    backend.schedule_task_run(task["id"], name)
    backend.pause_queue(name)

    assert backend.grab_next_visits(name, 1, "oldest_scheduled_first", absolute_cooldown=None)[0].url == url


# Rows that others wrote


@pytest.fixture
def planted(backend: SchedulerBackend, execute: Callable[..., None]) -> int:
    """A row of each kind that only others write; answers how many tasks there are."""
    backend.create_task_type(a_type())
    lister = a_lister(backend)
    arguments = ["null", "5", '"x"', "[]", '{"args": 5}', '{"args": {}, "kwargs": []}', '{"args": null}', "{}"]
    arguments += ["[" * 1500 + "]" * 1500, '{"args": [' + "9" * 5000 + "]}", '{"args": [' + "9" * 400 + ".5]}"]
    arguments += ['{"args": [' + "[" * 400 + "]" * 400 + "]}", '{"kwargs": {"\\u001b[31m": "\\u202e"}}']
    for value in arguments:
        execute(
            "insert into task (type, arguments, next_run, policy, status, retries_left) "
            "values ('load', cast(:value as jsonb), now(), 'oneshot', 'next_run_not_scheduled', -9223372036854775808)",
            value=value,
        )
    intervals = ["178000000 years", "-178000000 years", "-1 day", "2147483647 days"]
    for n, timestamp in enumerate(BEYOND):
        execute(
            "insert into task (type, arguments, next_run, current_interval, status, priority) "
            "select 'load', '{}', cast(:timestamp as timestamptz), cast(:interval as interval), status, priority "
            "from unnest(enum_range(null::task_status)) as s (status), "
            "     (values (null), ('low'::task_priority)) as p (priority)",
            timestamp=timestamp,
            interval=intervals[n % len(intervals)],
        )
        execute(
            "insert into listed_origins (lister_id, url, visit_type, extra_loader_arguments, enabled, first_seen,"
            " last_seen, last_update) values (:lister, :url, 'git', '[null]', true, :time, :time, :time)",
            lister=lister,
            url=url_of(n),
            time=timestamp,
        )
        execute(
            "insert into origin_visit_stats (url, visit_type, last_successful, last_visit, last_visit_status,"
            " last_scheduled, last_snapshot, next_visit_queue_position, next_position_offset, successive_visits)"
            " values (:url, 'git', :time, :time, 'successful', :time, '', 9223372036854775807, 2147483647,"
            " 2147483647)",
            url=url_of(n),
            time=timestamp,
        )
        execute(
            "insert into scheduler_metrics (lister_id, visit_type, last_update) values (:lister, :url, :timestamp)",
            lister=lister,
            url=url_of(n),
            timestamp=timestamp,
        )
        execute(
            "insert into task_run (task, backend_id, scheduled, started, ended, metadata, status)"
            " select id, null, :timestamp, :timestamp, :timestamp, cast(:metadata as jsonb), 'failed' from task",
            timestamp=timestamp,
            metadata=["null", "5", "[]", '{"error": {"a": [1]}, "attempts": "x"}', '{"attempts": 1e300}'][n],
        )
        execute(
            "with run as (insert into task_run (task, scheduled, started, metadata, status)"
            " select id, :timestamp, :timestamp, cast(:metadata as jsonb), 'started' from task"
            " where status = 'next_run_scheduled' and next_run = :timestamp returning id, task)"
            " update task t set run_id = run.id from run where run.task = t.id",
            timestamp=timestamp,
            metadata='{"attempts": 1e300, "worker": "' + "w" * 300 + '"}' if n % 2 else "[]",
        )
        execute(
            "insert into task_type (type, description, backend_name, default_interval, min_interval, max_interval,"
            " backoff_factor, max_queue_length, num_retries, retry_delay) values"
            " (:type, '', :queue, cast(:i as interval), cast(:i as interval), cast(:i as interval),"
            " cast(:factor as float8), -1, -9223372036854775808, cast(:i as interval))",
            type=f"odd {n}",
            queue=["", "a b", "\x1b[31m{backend_name}", "q" * 300, "ü\u202e"][n],
            i=intervals[n % len(intervals)],
            factor=["NaN", "Infinity", "-Infinity", "1e-320", "0"][n],
        )
        execute(
            "insert into dispatch_type (type, paused, max_in_flight, rate_limit, tokens, refilled)"
            " values (:type, :timestamp, 9223372036854775807, 1e-300, cast(:tokens as float8), :timestamp)",
            type=f"odd {n}",
            timestamp=timestamp,
            tokens=["NaN", "Infinity", "-Infinity", "-1e308", "0"][n],
        )
        execute(
            "insert into task (type, arguments, next_run, policy, status) values"
            " (:type, '{}', now(), 'oneshot', 'next_run_not_scheduled')",
            type=f"odd {n}",
        )
        execute(
            "insert into dispatch_queue (queue, paused, published, depth, drain_rate)"
            " values (:queue, :timestamp, :timestamp, -1, cast(:rate as float8))",
            queue=["load", "a b", "x", "", "ü"][n],
            timestamp=timestamp,
            rate=["NaN", "Infinity", "-1e-300", "0", "1e308"][n],
        )
    execute("insert into dispatcher_session (id, host, pid, backend_pid, opened) values (1, 'h', 1, 1, 'infinity')")
    execute("insert into dispatch_batch (session_id, queue, visits, opened) values (1, 'load', '5', '-infinity')")
    execute(
        "insert into dispatch_batch (session_id, queue, runs, opened)"
        " select 1, 'load', array_agg(run_id), 'infinity' from task where run_id is not null"
    )
    execute(
        "update listers set current_state = '[]', created = 'infinity', updated = '-infinity',"
        " first_visits_queue_prefix = '', last_listing_finished_at = 'infinity'"
    )
    return len(backend.search_tasks())


def test_every_read_of_the_backend_shows_rows_that_others_wrote(
    backend: SchedulerBackend, database: Database, planted: int
) -> None:
    tasks = backend.search_tasks()
    ids = [task["id"] for task in tasks]
    (lister,) = backend.get_listers()
    keys = [(url_of(n), "git") for n in range(len(BEYOND))]

    found = {
        "get_tasks": backend.get_tasks(ids),
        "peek_ready_tasks": backend.peek_ready_tasks("load"),
        "peek_ready_priority_tasks": backend.peek_ready_priority_tasks("load"),
        "get_task_runs": backend.get_task_runs(ids),
        "get_task_types": backend.get_task_types(),
        "get_task_type": [backend.get_task_type("odd 0")],
        "get_listers_by_id": backend.get_listers_by_id([lister.id or ""]),
        "get_lister": [backend.get_lister(lister.name, lister.instance_name)],
        "get_listed_origins": backend.get_listed_origins().results,
        "origin_visit_stats_get": backend.origin_visit_stats_get(keys),
        "get_metrics": backend.get_metrics(),
        "update_metrics": backend.update_metrics(),
        "get_controls": backend.get_controls().task_types,
        "filter_task_to_archive": backend.filter_task_to_archive("0001-01-01", "9999-12-31", limit=10_000)["tasks"],
        "overview": database.run(facts.overview).failures,
        "grab_ready_tasks": backend.grab_ready_tasks("load"),
        "grab_ready_priority_tasks": backend.grab_ready_priority_tasks("load"),
    }

    assert [name for name, rows in found.items() if not rows and name != "filter_task_to_archive"] == []
    assert {str(task["next_run"]) for task in tasks} >= set(BEYOND)
    assert "178000000 years" in {str(task["current_interval"]) for task in tasks}
    assert {str(origin.last_update) for origin in backend.get_listed_origins().results} == set(BEYOND)
    assert [str(entry.last_visit) for entry in backend.origin_visit_stats_get(keys)] == list(BEYOND)
    assert isinstance(lister.last_listing_finished_at, TimestampText)


POLICIES = (
    "oldest_scheduled_first",
    "never_visited_oldest_update_first",
    "already_visited_order_by_lag",
    "origins_without_last_update",
    "stop_after_success",
    "first_visits_after_listing",
)


@pytest.mark.parametrize("policy", POLICIES)
def test_visits_are_grabbed_beside_rows_that_others_wrote(backend: SchedulerBackend, planted: int, policy: str) -> None:
    (lister,) = backend.get_listers()

    for lister_uuid in (lister.id, None)[: 1 + (policy != "first_visits_after_listing")]:
        backend.grab_next_visits("git", 10, policy, lister_uuid=lister_uuid)


def test_an_outcome_is_recorded_over_rows_that_others_wrote(backend: SchedulerBackend, planted: int) -> None:
    keys = [(url_of(n), "git") for n in range(len(BEYOND))]

    backend.record_visit_outcomes([an_outcome(n, date=NOW) for n in range(len(BEYOND) + 1)])

    late, early, older, *others = [entry.last_visit for entry in backend.origin_visit_stats_get(keys)]
    assert (str(late), early, older) == ("infinity", NOW, NOW)
    assert [str(timestamp) for timestamp in others] == list(BEYOND[3:])
    assert backend.origin_visit_stats_get([(url_of(len(BEYOND)), "git")])[0].last_visit == NOW


def test_statistics_come_back_to_origins_whose_last_update_was_infinite(
    backend: SchedulerBackend, execute: Callable[..., None]
) -> None:
    lister = a_lister(backend)
    backend.record_listed_origins([an_origin(lister, last_update=NOW)])
    execute("update listed_origins set last_update = 'infinity'")
    backend.record_visit_outcomes([an_outcome(date=NOW - DAY)])

    backend.record_listed_origins([an_origin(lister, last_update=NOW)])

    assert len(backend.grab_next_visits("git", 1, "already_visited_order_by_lag", absolute_cooldown=None)) == 1


INTERVALS = ["178000000 years", "-178000000 years", "2147483647 days", "-1 day"]


@pytest.mark.parametrize("status", ["eventful", "uneventful", "failed", "permfailed", "lost"])
@pytest.mark.parametrize("policy", ["recurring", "oneshot"])
def test_ends_go_on_over_types_and_tasks_that_others_wrote(
    backend: SchedulerBackend, execute: Callable[..., None], status: str, policy: str
) -> None:
    backend.create_task_type(a_type(num_retries=1))
    factors = ["NaN", "Infinity", "-Infinity", "1e-320", "1e308", "0"]
    names = [f"{interval} {factor}" for interval in INTERVALS for factor in factors]
    for name, (interval, factor) in zip(names, ((i, f) for i in INTERVALS for f in factors), strict=True):
        execute(
            "insert into task_type (type, description, backend_name, default_interval, min_interval, max_interval,"
            " backoff_factor, num_retries, retry_delay) select :name, '', 'q', i, null, i, cast(:factor as float8),"
            " 1, i from cast(:interval as interval) as i",
            name=name,
            interval=interval,
            factor=factor,
        )
    tasks = backend.create_tasks([a_task(type=name, policy=policy) for name in names])
    backend.mass_schedule_task_runs([TaskRun(task=task["id"], backend_id=task["type"]) for task in tasks])
    execute("update task_run set scheduled = 'infinity' where id % 2 = 0")
    a_run(backend, "neighbour")

    for name in [*names, "neighbour"]:
        backend.end_task_run(name, status, timestamp=NOW)

    ended = backend.get_tasks([task["id"] for task in tasks])
    assert all(isinstance(task["next_run"], datetime) and NOW <= task["next_run"] <= LAST for task in ended)
    assert {run["status"] for run in backend.get_task_runs([task["id"] for task in tasks])} == {status}


@pytest.fixture(params=["rabbitmq_url", "valkey_url"])
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, run: Run) -> str:
    url: str = request.getfixturevalue(request.param)
    monkeypatch.setenv(BROKER, url)
    return url


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_every_command_that_shows_shows_rows_that_others_wrote(
    run: Run, broker: str, backend: SchedulerBackend, planted: int, as_json: bool
) -> None:
    ids = [task["id"] for task in backend.search_tasks()]
    option = ["--json"] if as_json else []
    commands = [
        ["db", "status"],
        ["status"],
        ["queue", "list"],
        ["task", "list", "--limit", "1000"],
        ["task-type", "list"],
        *(["task-type", "show", f"odd {n}"] for n in range(len(BEYOND))),
        *(["task", "show", str(task)] for task in ids),
        *(["explain", "task", str(task)] for task in ids),
    ]

    for command in commands:
        outcome = run(*command, *option)
        assert outcome.status == 0, (command, outcome.err)
        assert "\x1b" not in outcome.out
        if as_json:
            json.loads(outcome.out, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
