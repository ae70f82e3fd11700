"""The public door to the database: ``SchedulerBackend``.

Every method opens one transaction, calls the function behind it, and returns. Functions behind the door
live in a module per concern and take a connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from random import Random
from types import TracebackType
from typing import Any, ClassVar, Self
from uuid import UUID

import psycopg2.extensions

from swh_sched_runner.backend import validate
from swh_sched_runner.backend.dispatch import limits
from swh_sched_runner.backend.origins import listers, metrics, origins, policies, stats
from swh_sched_runner.backend.origins.outcomes import record as record_outcomes  # the parameter hides the module
from swh_sched_runner.backend.tasks import archive, runs, tasks, types
from swh_sched_runner.backend.tasks.tasks import create as create_tasks  # the parameter ``tasks`` hides the module
from swh_sched_runner.config.settings import MAX_ARGUMENTS_BYTES, MAX_ARGUMENTS_DEPTH
from swh_sched_runner.db.callers import CallersConnection
from swh_sched_runner.db.connections import create_engine, dsn
from swh_sched_runner.db.engine import Database
from swh_sched_runner.model import (
    UNCHANGED,
    Controls,
    LastVisitStatus,
    ListedOrigin,
    Lister,
    OriginVisitStats,
    PaginatedListedOriginList,
    Pause,
    SchedulerMetrics,
    Task,
    TaskRun,
    TaskType,
    Unchanged,
    VisitOutcome,
)


def adapt_LastVisitStatus(v: LastVisitStatus) -> psycopg2.extensions.AsIs:  # noqa: N802 (the public name)
    """How psycopg2 writes a ``LastVisitStatus``: its value, as a ``last_visit_status``."""
    return psycopg2.extensions.AsIs(f"'{v.value}'::last_visit_status")


class SchedulerBackend:
    """Task types, tasks, runs, listers, origins and visits in a PostgreSQL database.

    ``db`` is a libpq connection string, a postgresql:// URL, or an open psycopg2 connection.

    With the first two, up to ``max_pool_conns`` connections are opened and ``min_pool_conns`` are kept; when all are
    taken, callers wait. Each method is a transaction of its own; one that meets a transient error (a dropped
    connection, a deadlock, …) is tried again as a whole, five times at most. A statement waits 30 s for a lock, unless
    the role, the database or ``db`` sets another lock_timeout. Where one of them sets statement_timeout, a connection
    that gives no answer is given up soon after it. Threads may share a backend, and a process that is forked may go on
    using it.

    On an open connection each method is part of the caller's transaction: nothing is committed, rolled back or closed
    for the caller, an error of ours takes back that one call alone (by a savepoint), and nothing is tried again. If the
    connection is in autocommit mode and no transaction is open, each method is a transaction. Settings of the session
    are as before after each call, and only one thread at a time is let in.

    Timestamps go in with any time zone and come out in UTC; those without a ``timestamp`` are the database's ``now()``.
    They lie in the years 1 to 9999, and an interval of a task type is at most 365,000 days; a run that ends so late
    that the next one would lie behind the year 9999 gets its last one. A URL has at most 2,048 bytes, and a name or
    identifier (of types, visit types, queues, listers, runs) 500: more fits into no index.

    Rows that others wrote may hold what Python can't. They are read all the same: such a timestamp is a
    ``TimestampText``, such an interval or JSON is PostgreSQL's text of it.

    Every method raises ``InvalidArgument`` for a wrong argument, before anything is written; ``DatabaseUnavailable``
    when trying again did not help (``LockTimeout``, ``StatementTimeout`` and ``TransactionConflict`` are of that kind);
    ``StatementRefused`` when PostgreSQL says no; ``ConnectionUnusable`` for an open connection that is closed by now,
    or whose transaction has failed. All of them, and what a method names beside, are ``SchedulerException``.

    ``max_arguments_bytes`` (8 MB) and ``max_arguments_depth`` (100) are what ``create_tasks`` takes; set them on an
    instance where the broker takes larger messages, and ``tasks.max_arguments_bytes`` for the runner.
    """

    current_version = 33

    task_type_keys: ClassVar = list(types.KEYS)
    task_create_keys: ClassVar = list(tasks.CREATE_KEYS)
    task_keys: ClassVar = list(tasks.KEYS)
    task_run_create_keys: ClassVar = list(runs.CREATE_KEYS)
    task_run_keys: ClassVar = list(runs.KEYS)

    # What the arguments of a task may take as JSON, and how deep they may be nested; to be set on an instance.
    max_arguments_bytes: int = MAX_ARGUMENTS_BYTES
    max_arguments_depth: int = MAX_ARGUMENTS_DEPTH

    def __init__(
        self, db: str | psycopg2.extensions.connection, min_pool_conns: int = 1, max_pool_conns: int = 10
    ) -> None:
        validate.integer("min_pool_conns", min_pool_conns, least=0)
        validate.integer("max_pool_conns", max_pool_conns, least=max(min_pool_conns, 1), most=10_000)
        self._db: Database | CallersConnection
        if isinstance(db, psycopg2.extensions.connection):
            self._db = CallersConnection(db)
        else:
            self._db = Database(create_engine(dsn(db), min_pool_conns, max_pool_conns))

    @classmethod
    def of(cls, database: Database) -> Self:
        """A backend on a ``Database`` that exists already, for programs that share one pool."""
        backend = cls.__new__(cls)
        backend._db = database
        return backend

    def close(self) -> None:
        """Close the pooled connections; a connection that was handed in stays open."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Task types

    def create_task_type(self, task_type: TaskType) -> None:
        """Create a task type; one that exists stays as it is.

        Keys: ``type``, ``description`` and ``backend_name`` (Celery task and queue) are required;
        ``default_interval``, ``min_interval``, ``max_interval`` and ``retry_delay`` are timedeltas, ``backoff_factor``
        is a number above 0, ``max_queue_length`` counts messages (None: unbounded), ``num_retries`` counts failures
        in a row. Keys left out take the database's default: 1000 messages, None for the others.
        """
        self._db.run(types.create, task_type)

    def get_task_type(self, task_type_name: str) -> TaskType | None:
        """The task type of that name, or None."""
        return self._db.run(types.get, task_type_name)

    def get_task_types(self) -> list[TaskType]:
        """All task types, in order of their names."""
        return self._db.run(types.get_all)

    # Controls

    def pause_task_type(self, task_type: str, by: str | None = None, reason: str | None = None) -> Pause | None:
        """Let no more tasks of a type be taken, nor visits that it makes, until ``resume_task_type``.

        What was taken is still sent. Runners obey within a second. A type that is paused already keeps that pause, with
        its timestamp, ``by`` and ``reason``, and it is returned; None is returned when the pause begins. Raises
        ``UnknownTaskType``.
        """
        return self._db.run(limits.pause_task_type, task_type, by, reason)

    def resume_task_type(self, task_type: str) -> Pause | None:
        """End the pause of a type and return it; None if there was none. Raises ``UnknownTaskType``."""
        return self._db.run(limits.resume_task_type, task_type)

    def pause_queue(self, queue: str, by: str | None = None, reason: str | None = None) -> Pause | None:
        """Let nothing more be sent to a queue until ``resume_queue``; what is in it stays for its workers.

        The queue for tasks with a priority is a queue of its own. Messages in the outbox that are not confirmed
        wait too. Any name will do, that of a queue to come as well. Returns as ``pause_task_type`` does.
        """
        return self._db.run(limits.pause_queue, queue, by, reason)

    def resume_queue(self, queue: str) -> Pause | None:
        """End the pause of a queue and return it; None if there was none."""
        return self._db.run(limits.resume_queue, queue)

    def set_task_type_limits(
        self,
        task_type: str,
        max_queue_length: int | Unchanged | None = UNCHANGED,
        max_in_flight: int | Unchanged | None = UNCHANGED,
        rate_limit: float | Unchanged | None = UNCHANGED,
        max_run_seconds: float | Unchanged | None = UNCHANGED,
        keep_runs: timedelta | Unchanged | None = UNCHANGED,
    ) -> None:
        """Limit a type; None lifts a limit, and what is not given stays as it is.

        ``max_queue_length`` bounds the messages in its queue (of several types that share one the least bound counts),
        ``max_in_flight`` its tasks that were taken and have not ended, ``rate_limit`` its tasks a second, from all
        runners together: 0.000001 to 1000000. What is above a lowered limit already stays. ``max_run_seconds`` is how
        long a run may take from its start. ``keep_runs`` is how long its ended runs are kept: older ones are deleted by
        the pruner, but none that a task follows. Raises ``UnknownTaskType``.
        """
        limited = max_queue_length, max_in_flight, rate_limit, max_run_seconds, keep_runs
        self._db.run(limits.set_task_type_limits, task_type, *limited)

    def set_queue_limit(self, queue: str, max_queue_length: int | None) -> None:
        """Bound the messages in a queue, and in that for its tasks with a priority; None is unbounded.

        Sets the ``max_queue_length`` of all task types with this ``backend_name``. Raises ``UnknownQueue``.
        """
        self._db.run(limits.set_queue_limit, queue, max_queue_length)

    def get_controls(self) -> Controls:
        """What holds each task type and queue back now."""
        return self._db.run(limits.get)

    # Tasks

    def create_tasks(self, tasks: Iterable[Task], policy: str = "recurring") -> list[Task]:
        """Create tasks that don't exist yet and return the matching ones, old or new.

        Each distinct task is returned once, in order of first appearance, also when the input holds it twice.

        Keys: ``type``, ``arguments`` (``{"args": list, "kwargs": dict}``) and ``next_run`` are required; ``policy``
        defaults to the argument, ``status`` to next_run_not_scheduled, ``retries_left`` to the type's num_retries or
        0, ``priority`` to None. Two tasks match when type, arguments, policy, priority and status are equal (the two
        statuses of a waiting task count as one), and for a one-shot task next_run too. Two concurrent calls create
        one task. Raises ``UnknownTaskType``; for a recurring task of a type without default_interval, and for arguments
        larger than ``max_arguments_bytes`` or nested deeper than ``max_arguments_depth``, ``InvalidArgument``.
        """
        limits = self.max_arguments_bytes, self.max_arguments_depth
        return self._db.run(create_tasks, validate.many("tasks", tasks), policy, *limits)

    def set_status_tasks(
        self, task_ids: Iterable[int], status: str = "disabled", next_run: datetime | None = None
    ) -> None:
        """Set the status of tasks, and their next_run if it is given. Runs in flight no longer move these tasks.

        ``status`` is next_run_not_scheduled, next_run_scheduled, completed or disabled. Unknown ids are left out.
        """
        self._db.run(tasks.set_status, validate.many("task_ids", task_ids), status, next_run)

    def disable_tasks(self, task_ids: Iterable[int]) -> None:
        """Disable tasks. Runs in flight no longer move them. Unknown ids are left out."""
        self._db.run(tasks.set_status, validate.many("task_ids", task_ids), "disabled", None)

    def search_tasks(
        self,
        task_id: int | Iterable[int] | None = None,
        task_type: str | None = None,
        status: str | None = None,
        priority: str | None = None,
        policy: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        """Tasks that meet all given conditions, in order of id, at most ``limit``.

        ``task_id`` is an id or several; ``before`` and ``after`` bound next_run, inclusive.
        """
        several = [task_id] if isinstance(task_id, int) else task_id
        ids = None if several is None else validate.many("task_id", several)
        return self._db.run(tasks.search, ids, task_type, status, priority, policy, before, after, limit)

    def get_tasks(self, task_ids: Iterable[int]) -> list[Task]:
        """The tasks of these ids, in order of id; unknown ids are left out."""
        return self._db.run(tasks.get, validate.many("task_ids", task_ids))

    def peek_ready_tasks(
        self, task_type: str, timestamp: datetime | None = None, num_tasks: int | None = None
    ) -> list[Task]:
        """Due tasks without priority, in order of next_run, left as they are.

        Due is what has a next_run up to ``timestamp``; ``num_tasks`` None means all. Tasks of an unknown type: none.
        """
        return self._db.run(tasks.peek_ready, task_type, timestamp, num_tasks)

    def grab_ready_tasks(
        self, task_type: str, timestamp: datetime | None = None, num_tasks: int | None = None
    ) -> list[Task]:
        """Take what ``peek_ready_tasks`` would show, and mark it as next_run_scheduled.

        No two callers, in any process, ever get the same task: one that comes meanwhile gets the next ones.
        """
        return self._db.run(tasks.grab_ready, task_type, timestamp, num_tasks)

    def peek_ready_priority_tasks(
        self, task_type: str, timestamp: datetime | None = None, num_tasks: int | None = None
    ) -> list[Task]:
        """Due tasks with a priority, in order high, normal, low, then next_run, left as they are.

        ``timestamp`` and ``num_tasks`` as in ``peek_ready_tasks``.
        """
        return self._db.run(tasks.peek_ready_priority, task_type, timestamp, num_tasks)

    def grab_ready_priority_tasks(
        self, task_type: str, timestamp: datetime | None = None, num_tasks: int | None = None
    ) -> list[Task]:
        """Take what ``peek_ready_priority_tasks`` would show, and mark it as next_run_scheduled.

        No two callers, in any process, ever get the same task.
        """
        return self._db.run(tasks.grab_ready_priority, task_type, timestamp, num_tasks)

    # Runs

    def schedule_task_run(
        self, task_id: int, backend_id: str, metadata: dict[str, Any] | None = None, timestamp: datetime | None = None
    ) -> TaskRun:
        """Open a run of a task that was grabbed, and return it. The task now follows this run.

        ``backend_id`` is the id of the message in Celery, ``timestamp`` the timestamp of scheduling. Raises
        ``UnknownTask`` and ``DuplicateBackendId``.
        """
        return self._db.run(runs.schedule, task_id, backend_id, metadata, timestamp)

    def mass_schedule_task_runs(self, task_runs: Iterable[TaskRun]) -> None:
        """Open many runs in one statement, all or none.

        Dicts with ``task`` and ``backend_id``, optionally ``metadata`` and ``scheduled``. Raises ``UnknownTask`` and
        ``DuplicateBackendId``.
        """
        self._db.run(runs.mass_schedule, validate.many("task_runs", task_runs))

    def start_task_run(
        self, backend_id: str, metadata: dict[str, Any] | None = None, timestamp: datetime | None = None
    ) -> TaskRun | None:
        """Note that a run started, and return it; None for an unknown ``backend_id``.

        ``metadata`` is merged into what is there, later keys win. A run that has a start already is returned as it is.
        """
        return self._db.run(runs.start, backend_id, metadata, timestamp)

    def end_task_run(
        self,
        backend_id: str,
        status: str,
        metadata: dict[str, Any] | None = None,
        timestamp: datetime | None = None,
        result: Any = None,
    ) -> TaskRun | None:
        """Note that a run ended, move its task, and return the run; None for an unknown ``backend_id``.

        ``status`` is eventful, uneventful, failed, permfailed or lost. ``metadata`` is merged into what is there, later
        keys win; ``result`` is kept as ``metadata["result"]``. A run that has ended already is returned as it is,
        unless that end was only presumed: lost, or known from Celery's own events alone. What an end does to its task:
        docs/state-machine.md.
        """
        return self._db.run(runs.end, backend_id, status, metadata, timestamp, result)

    def get_task_runs(self, task_ids: Iterable[int], limit: int | None = None) -> list[TaskRun]:
        """The runs of these tasks, in order of id, at most ``limit``."""
        return self._db.run(runs.get_of_tasks, validate.many("task_ids", task_ids), limit)

    # Archive

    def filter_task_to_archive(
        self,
        after_ts: str | datetime,
        before_ts: str | datetime,
        limit: int = 10,
        page_token: str | None = None,
    ) -> dict[str, Any]:
        """A page of the runs to archive: their task is disabled, or completed and one-shot.

        Taken are runs whose ``started`` (``scheduled``, if they never started) lies in ``[after_ts, before_ts[``, in
        order of that time, at most ``limit``. Bounds are datetimes with a time zone or ISO 8601 texts, which are in
        UTC where they name no zone. ``next_page_token`` leads to the next page, and is missing on the last one.

        ``tasks`` holds a dict for each run: ``task_id``, ``task_policy``, ``task_status``, ``task_run_id``,
        ``arguments``, ``type``, ``backend_id``, ``metadata``, ``scheduled``, ``started``, ``ended`` and
        ``task_run_status``. In ``arguments``, ``args`` is ``{index: value}`` and ``kwargs`` a JSON text. Pages show
        every run once, also where a task has more of them than ``limit``, and may be deleted one by one.
        """
        return self._db.run(archive.get_page, after_ts, before_ts, limit, page_token)

    def delete_archived_tasks(self, task_ids: Iterable[Mapping[str, int]]) -> None:
        """Delete exactly these runs, and those of their tasks that have no run left.

        Dicts with ``task_id`` and ``task_run_id``, such as the rows of ``filter_task_to_archive``; other keys are left
        alone, and so are runs that are gone already. A task that was set to run again meanwhile stays. Raises
        ``InvalidArgument`` for a run of another task.
        """
        self._db.run(archive.delete, validate.many("task_ids", task_ids))

    # Listers

    def get_listers(self) -> list[Lister]:
        """All listers, in order of creation."""
        return self._db.run(listers.get_all)

    def get_listers_by_id(self, lister_ids: Iterable[UUID | str]) -> list[Lister]:
        """The listers of these ids, in order of creation; unknown ids are left out."""
        return self._db.run(listers.get_by_id, validate.many("lister_ids", lister_ids))

    def get_lister(self, name: str, instance_name: str | None = None) -> Lister | None:
        """The lister of that name and instance (None is the empty name); None for an unknown one."""
        return self._db.run(listers.get, name, instance_name)

    def get_or_create_lister(self, name: str, instance_name: str | None = None) -> Lister:
        """The lister of that name and instance, made if it is not there."""
        return self._db.run(listers.get_or_create, name, instance_name)

    def update_lister(self, lister: Lister) -> Lister:
        """Write ``current_state`` and what is known of listings and first visits; return the lister as it is now.

        ``updated`` must be what the database has; it is moved forward. Raises ``StaleData`` when somebody else wrote
        the lister meanwhile.
        """
        return self._db.run(listers.update, lister)

    # Origins

    def record_listed_origins(self, listed_origins: Iterable[ListedOrigin]) -> list[ListedOrigin]:
        """Record what a lister listed and return the rows, each key once, in the order of the input.

        New origins are inserted; of known ones extra_loader_arguments, enabled, last_update and last_seen are
        written, first_seen stays. The last of a key wins. Raises ``UnknownLister``.
        """
        return self._db.run(origins.record, validate.many("listed_origins", listed_origins))

    def get_listed_origins(
        self,
        lister_id: UUID | str | None = None,
        url: str | None = None,
        enabled: bool | None = True,
        limit: int = 1000,
        page_token: tuple[str, str] | None = None,
    ) -> PaginatedListedOriginList:
        """A page of origins in order of lister, url and visit type; ``enabled`` None means all.

        The visit types of one url stay on one page: it is shorter than ``limit`` where they no longer fit, and
        longer only where one url has more of them than that. ``page_token`` is the ``next_page_token`` of the page
        before; that of the last one is None.
        """
        return self._db.run(origins.get_page, lister_id, url, enabled, limit, page_token)

    # Visits

    def grab_next_visits(
        self,
        visit_type: str,
        count: int,
        policy: str,
        enabled: bool = True,
        lister_uuid: UUID | str | None = None,
        lister_name: str | None = None,
        lister_instance_name: str | None = None,
        timestamp: datetime | None = None,
        absolute_cooldown: timedelta | None = timedelta(hours=12),
        scheduled_cooldown: timedelta | None = timedelta(days=7),
        failed_cooldown: timedelta | None = timedelta(days=14),
        not_found_cooldown: timedelta | None = timedelta(days=31),
        tablesample: float | None = None,
    ) -> list[ListedOrigin]:
        """Take up to ``count`` origins to visit, in the policy's order, and note that they were scheduled.

        No two callers at the same time get the same url and visit type; two listers that list the same url give
        two origins. Left out are origins scheduled less than ``absolute_cooldown`` ago; scheduled less than
        ``scheduled_cooldown`` ago and not visited since; and those whose last visit failed, or found nothing, less than
        ``failed_cooldown`` or ``not_found_cooldown`` ago. None switches a cooldown off. ``tablesample`` is the
        percentage of origins that is looked at. Policies: oldest_scheduled_first, never_visited_oldest_update_first,
        already_visited_order_by_lag, origins_without_last_update, stop_after_success and, for one lister,
        first_visits_after_listing; another raises ``UnknownPolicy``.
        """
        return self._db.run(
            policies.grab_next,
            visit_type,
            count,
            policy,
            enabled=enabled,
            lister_uuid=lister_uuid,
            lister_name=lister_name,
            lister_instance_name=lister_instance_name,
            timestamp=timestamp,
            absolute_cooldown=absolute_cooldown,
            scheduled_cooldown=scheduled_cooldown,
            failed_cooldown=failed_cooldown,
            not_found_cooldown=not_found_cooldown,
            tablesample=tablesample,
        )

    def record_visit_outcomes(self, outcomes: Iterable[VisitOutcome]) -> None:
        """Note how visits went: adapt how soon their origins come again, disable what failed three times in a row.

        Outcomes of one origin are applied in order of their dates; one that is not newer than its last visit, and the
        statuses created and ongoing, change nothing. So a replay is harmless. full and partial without a snapshot count
        as failed. Origins that nobody lists get statistics too.
        """
        self._db.run(record_outcomes, validate.many("outcomes", outcomes), Random())

    def origin_visit_stats_upsert(self, origin_visit_stats: Iterable[OriginVisitStats]) -> None:
        """Write statistics of visits: a None keeps what is stored, offset and successive visits are always written.

        A url and visit type twice in one call raise ``SchedulerException``.
        """
        self._db.run(stats.upsert, validate.many("origin_visit_stats", origin_visit_stats))

    def origin_visit_stats_get(self, ids: Iterable[tuple[str, str]]) -> list[OriginVisitStats]:
        """The statistics of these (url, visit type), in the order given; unknown ones are left out.

        A key that is given twice has two entries.
        """
        return self._db.run(stats.get, validate.many("ids", ids))

    def visit_scheduler_queue_position_get(self) -> dict[str, int]:
        """How far the queue of origins without last_update has come, by visit type; a number without a unit."""
        return self._db.run(stats.queue_positions)

    def visit_scheduler_queue_position_set(self, visit_type: str, position: int) -> None:
        """Set how far the queue of a visit type has come, forwards or back."""
        self._db.run(stats.set_queue_position, visit_type, position)

    # Metrics

    def update_metrics(
        self, lister_id: UUID | str | None = None, timestamp: datetime | None = None
    ) -> list[SchedulerMetrics]:
        """Count the origins of that lister, or of all, and return the counts; ``[]`` for an unknown lister.

        In order of lister and visit type. ``timestamp`` is noted as ``last_update`` of the counts.
        """
        return self._db.run(metrics.update, lister_id, timestamp)

    def get_metrics(self, lister_id: UUID | str | None = None, visit_type: str | None = None) -> list[SchedulerMetrics]:
        """The counts as they were last updated, in order of lister and visit type; filters combine."""
        return self._db.run(metrics.get, lister_id, visit_type)
