"""The names, signatures and shapes that programs count on, as the reference page gives them."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable
from typing import Any

import psycopg2.extensions
import pytest

from swh_sched_runner import backend as backend_module
from swh_sched_runner import exc, model
from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.model import ListedOrigin, Lister, OriginVisitStats
from tests.support.samples import NOW, a_task, a_type, run_of_a_task

NOTHING = inspect.Parameter.empty
days = datetime.timedelta

# Method by method: its parameters after self, in order, with their defaults. From the reference page.
SIGNATURES: dict[str, dict[str, Any]] = {
    "__init__": {"db": NOTHING, "min_pool_conns": 1, "max_pool_conns": 10},
    "create_task_type": {"task_type": NOTHING},
    "get_listers_by_id": {"lister_ids": NOTHING},
    "get_lister": {"name": NOTHING, "instance_name": None},
    "get_or_create_lister": {"name": NOTHING, "instance_name": None},
    "update_lister": {"lister": NOTHING},
    "record_listed_origins": {"listed_origins": NOTHING},
    "get_listed_origins": {"lister_id": None, "url": None, "enabled": True, "limit": 1000, "page_token": None},
    "grab_next_visits": {
        "visit_type": NOTHING,
        "count": NOTHING,
        "policy": NOTHING,
        "enabled": True,
        "lister_uuid": None,
        "lister_name": None,
        "lister_instance_name": None,
        "timestamp": None,
        "absolute_cooldown": days(seconds=43200),
        "scheduled_cooldown": days(days=7),
        "failed_cooldown": days(days=14),
        "not_found_cooldown": days(days=31),
        "tablesample": None,
    },
    "create_tasks": {"tasks": NOTHING, "policy": "recurring"},
    "add_task": {"task": NOTHING},
    "set_status_tasks": {"task_ids": NOTHING, "status": "disabled", "next_run": None},
    "search_tasks": dict.fromkeys(["task_id", "task_type", "status", "priority", "policy", "before", "after", "limit"]),
    "peek_ready_tasks": {"task_type": NOTHING, "timestamp": None, "num_tasks": None},
    "grab_ready_tasks": {"task_type": NOTHING, "timestamp": None, "num_tasks": None},
    "peek_ready_priority_tasks": {"task_type": NOTHING, "timestamp": None, "num_tasks": None},
    "grab_ready_priority_tasks": {"task_type": NOTHING, "timestamp": None, "num_tasks": None},
    "schedule_task_run": {"task_id": NOTHING, "backend_id": NOTHING, "metadata": None, "timestamp": None},
    "mass_schedule_task_runs": {"task_runs": NOTHING},
    "start_task_run": {"backend_id": NOTHING, "metadata": None, "timestamp": None},
    "end_task_run": {"backend_id": NOTHING, "status": NOTHING, "metadata": None, "timestamp": None, "result": None},
    "filter_task_to_archive": {"after_ts": NOTHING, "before_ts": NOTHING, "limit": 10, "page_token": None},
    "delete_archived_tasks": {"task_ids": NOTHING},
    "origin_visit_stats_upsert": {"origin_visit_stats": NOTHING},
    "update_metrics": {"lister_id": None, "timestamp": None},
    "get_metrics": {"lister_id": None, "visit_type": None},
    # Not on the page, but called by its users.
    "get_task_type": {"task_type_name": NOTHING},
    "get_task_types": {},
    "get_tasks": {"task_ids": NOTHING},
    "disable_tasks": {"task_ids": NOTHING},
    "get_task_runs": {"task_ids": NOTHING, "limit": None},
    "get_listers": {},
    "origin_visit_stats_get": {"ids": NOTHING},
    "visit_scheduler_queue_position_get": {},
    "visit_scheduler_queue_position_set": {"visit_type": NOTHING, "position": NOTHING},
    "record_visit_outcomes": {"outcomes": NOTHING},
    # Operators' controls.
    "pause_task_type": {"task_type": NOTHING, "by": None, "reason": None},
    "resume_task_type": {"task_type": NOTHING},
    "pause_queue": {"queue": NOTHING, "by": None, "reason": None},
    "resume_queue": {"queue": NOTHING},
    "set_task_type_limits": {
        "task_type": NOTHING,
        **dict.fromkeys(
            ["max_queue_length", "max_in_flight", "rate_limit", "max_run_seconds", "keep_runs"], model.UNCHANGED
        ),
    },
    "set_queue_limit": {"queue": NOTHING, "max_queue_length": NOTHING},
    "get_controls": {},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_method_has_the_names_order_and_defaults_of_the_reference_page(name: str) -> None:
    _, *parameters = inspect.signature(getattr(SchedulerBackend, name)).parameters.values()

    assert {each.name: each.default for each in parameters} == SIGNATURES[name]
    assert [each.name for each in parameters] == list(SIGNATURES[name])
    assert {each.kind for each in parameters} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert name == "__init__" or inspect.getdoc(getattr(SchedulerBackend, name))


def test_no_public_method_is_missing_from_the_table() -> None:
    public = {name for name, value in vars(SchedulerBackend).items() if callable(value) and not name.startswith("_")}

    assert public - SIGNATURES.keys() == {"close"}


def test_the_attributes_of_the_class_are_those_of_the_reference_page() -> None:
    create = ["type", "arguments", "next_run", "policy", "status", "retries_left", "priority"]
    assert SchedulerBackend.current_version == 33
    assert SchedulerBackend.task_type_keys == [
        *("type", "description", "backend_name", "default_interval", "min_interval", "max_interval"),
        *("backoff_factor", "max_queue_length", "num_retries", "retry_delay"),
    ]
    assert SchedulerBackend.task_create_keys == create
    assert SchedulerBackend.task_keys == [*create, "id", "current_interval"]
    assert SchedulerBackend.task_run_create_keys == ["task", "backend_id", "scheduled", "metadata"]
    assert SchedulerBackend.task_run_keys == [
        *("id", "task", "backend_id", "scheduled", "started", "ended", "metadata", "status")
    ]


def test_a_status_is_adapted_for_psycopg2() -> None:
    adapted = backend_module.adapt_LastVisitStatus(model.LastVisitStatus.not_found)

    assert isinstance(adapted, psycopg2.extensions.AsIs)
    assert adapted.getquoted() == b"'not_found'::last_visit_status"


def test_the_other_public_names_are_there() -> None:
    for name in ("Lister", "ListedOrigin", "OriginVisitStats", "SchedulerMetrics", "LastVisitStatus"):
        assert hasattr(model, name)
    for name in ("PaginatedListedOriginList", "TaskType", "Task", "TaskRun"):
        assert hasattr(model, name)
    assert issubclass(exc.StaleData, exc.SchedulerException)
    assert issubclass(exc.UnknownPolicy, exc.SchedulerException)


def test_tasks_types_and_runs_come_out_with_exactly_their_keys_as_plain_dicts(backend: SchedulerBackend) -> None:
    backend.create_task_type(a_type())
    task = run_of_a_task(backend, "run-1")
    [run] = backend.get_task_runs([task["id"]])
    [task_type] = backend.get_task_types()

    assert list(task_type) == SchedulerBackend.task_type_keys
    assert set(task) == set(SchedulerBackend.task_keys)
    assert set(run) == set(SchedulerBackend.task_run_keys)
    assert {type(each) for each in (task_type, task, run)} == {dict}
    assert {type(value) for value in (backend.get_task_types(), backend.get_tasks([1]), backend.search_tasks())} == {
        list
    }


MANY: dict[str, tuple[Callable[[SchedulerBackend, Any], Any], Callable[[Lister], list[Any]]]] = {
    "create_tasks": (lambda b, many: b.create_tasks(many), lambda _: [a_task(1), a_task(2)]),
    "set_status_tasks": (lambda b, many: b.set_status_tasks(many), lambda _: [1]),
    "disable_tasks": (lambda b, many: b.disable_tasks(many), lambda _: [1]),
    "get_tasks": (lambda b, many: b.get_tasks(many), lambda _: [1]),
    "get_task_runs": (lambda b, many: b.get_task_runs(many), lambda _: [1]),
    "mass_schedule_task_runs": (
        lambda b, many: b.mass_schedule_task_runs(many),
        lambda _: [{"task": 1, "backend_id": "other", "scheduled": NOW, "metadata": {}}],
    ),
    "get_listers_by_id": (lambda b, many: b.get_listers_by_id(many), lambda lister: [str(lister.id)]),
    "record_listed_origins": (
        lambda b, many: b.record_listed_origins(many),
        lambda lister: [ListedOrigin(lister.id, "https://a.example", "git")],  # type: ignore[arg-type]
    ),
    "origin_visit_stats_upsert": (
        lambda b, many: b.origin_visit_stats_upsert(many),
        lambda _: [OriginVisitStats("https://a.example", "git", last_visit=NOW)],
    ),
    "origin_visit_stats_get": (
        lambda b, many: b.origin_visit_stats_get(many),
        lambda _: [("https://a.example", "git")],
    ),
    "record_visit_outcomes": (
        lambda b, many: b.record_visit_outcomes(many),
        lambda _: [model.VisitOutcome("https://a.example", "git", NOW, "full", b"\1")],
    ),
    "delete_archived_tasks": (
        lambda b, many: b.delete_archived_tasks(many),
        lambda _: [{"task_id": 1, "task_run_id": 1}],
    ),
}


@pytest.mark.parametrize("name", MANY)
def test_an_argument_of_many_takes_any_iterable_and_an_empty_one_does_nothing(
    backend: SchedulerBackend, name: str
) -> None:
    call, values = MANY[name]
    backend.create_task_type(a_type())
    run_of_a_task(backend, "run-1")
    lister = backend.get_or_create_lister("forge", "example")

    assert not call(backend, iter(()))
    assert not call(backend, [])
    from_generator = call(backend, (value for value in values(lister)))
    assert from_generator is None or isinstance(from_generator, list)


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("wrong", [None, 7, "several", b"bytes", {"type": "one"}], ids=repr)
def test_one_thing_alone_is_refused_where_many_are_asked_for(backend: SchedulerBackend, name: str, wrong: Any) -> None:
    call, _ = MANY[name]
    _, first, *_ = inspect.signature(getattr(SchedulerBackend, name)).parameters

    with pytest.raises(exc.InvalidArgument, match=rf"^{first}: "):
        call(backend, wrong)
