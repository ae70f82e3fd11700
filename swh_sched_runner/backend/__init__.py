"""The public API to the database: ``SchedulerBackend``.

Each method runs one function in one transaction. These functions are in the packages below and take a connection.
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
    """Adapter for psycopg2: a ``LastVisitStatus`` as a value of the SQL type ``last_visit_status``."""
    return psycopg2.extensions.AsIs(f"'{v.value}'::last_visit_status")


class SchedulerBackend:
    """Task types, tasks, runs, listers, origins and visits in a PostgreSQL database.

    ``db`` is a libpq connection string, a postgresql:// URL, or an open psycopg2 connection.

    Given a string or URL, the backend has a pool: it keeps ``min_pool_conns`` connections and opens up to
    ``max_pool_conns``; when all are in use, callers wait. Each method is one transaction. After a transient error (a
    dropped connection, a deadlock, …) the whole transaction is retried, up to five attempts. A statement waits 30 s for
    a lock, unless the role, the database or ``db`` sets another lock_timeout. If one of them sets statement_timeout, a
    connection that does not answer is given up soon after that time. Threads may share a backend, and a forked process
    may continue to use it.

    Given an open connection, each method is part of the caller's transaction: nothing is committed, rolled back or
    closed, and nothing is retried. An error undoes only the call that raised it, by a savepoint. If the connection is
    in autocommit mode and no transaction is open, each method is a transaction. The settings of the session are
    restored after each call. Only one thread at a time may call a method; others wait.

    Timestamps may have any time zone and are returned in UTC. If a method has a ``timestamp`` that is not given, the
    database's ``now()`` is used. Timestamps must be in the years 1 to 9999, intervals of a task type at most 365,000
    days; a ``next_run`` that would be later is set to the end of the year 9999. Because of the size of index entries, a
    URL may have 2,048 bytes, and a name or identifier (of types, visit types, queues, listers, runs) 500.

    Rows written by other programs may contain values that Python's types cannot hold. They are returned as PostgreSQL's
    text: a timestamp as ``TimestampText``, an interval or JSON as ``str``.

    All errors are ``SchedulerException``. Every method raises ``InvalidArgument`` for a wrong argument, before anything
    is written; ``DatabaseUnavailable`` if retries did not help (its subclasses are ``LockTimeout``,
    ``StatementTimeout`` and ``TransactionConflict``); ``StatementRefused`` if PostgreSQL refuses a statement;
    ``ConnectionUnusable`` if an open connection was closed, or its transaction has failed.

    ``create_tasks`` refuses arguments that are larger than ``max_arguments_bytes`` (8 MB) or nested deeper than
    ``max_arguments_depth`` (100). If your broker accepts larger messages, set these on an instance, and
    ``tasks.max_arguments_bytes`` for the runner.
    """

    current_version = 33

    task_type_keys: ClassVar = list(types.KEYS)
    task_create_keys: ClassVar = list(tasks.CREATE_KEYS)
    task_keys: ClassVar = list(tasks.KEYS)
    task_run_create_keys: ClassVar = list(runs.CREATE_KEYS)
    task_run_keys: ClassVar = list(runs.KEYS)

    # maximum size of a task's arguments as JSON, and maximum nesting depth; may be set on an instance
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
        """Create a backend that shares the pool of an existing ``Database``."""
        backend = cls.__new__(cls)
        backend._db = database
        return backend

    def close(self) -> None:
        """Close the pooled connections. A connection that the caller passed stays open."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Task types

    def create_task_type(self, task_type: TaskType) -> None:
        """Create a task type. If it exists, it is not changed.

        Keys: ``type``, ``description`` and ``backend_name`` (Celery task and queue) are required;
        ``default_interval``, ``min_interval``, ``max_interval`` and ``retry_delay`` are timedeltas, ``backoff_factor``
        is a number above 0, ``max_queue_length`` is the limit of the queue in messages (None: no limit),
        ``num_retries`` the number of retries. Defaults: ``max_queue_length`` 1000, the others None.
        """
        self._db.run(types.create, task_type)

    def get_task_type(self, task_type_name: str) -> TaskType | None:
        """Return the task type of that name, or None."""
        return self._db.run(types.get, task_type_name)

    def get_task_types(self) -> list[TaskType]:
        """Return all task types, ordered by name."""
        return self._db.run(types.get_all)

    # Controls

    def pause_task_type(self, task_type: str, by: str | None = None, reason: str | None = None) -> Pause | None:
        """Stop taking tasks of a type, and visits that use it, until ``resume_task_type``.

        Messages that are already in the outbox are still sent. Runners obey within a second. Returns None. If the type
        is paused already, nothing changes and the existing pause is returned. Raises ``UnknownTaskType``.
        """
        return self._db.run(limits.pause_task_type, task_type, by, reason)

    def resume_task_type(self, task_type: str) -> Pause | None:
        """End the pause of a type and return it, or None if it was not paused. Raises ``UnknownTaskType``."""
        return self._db.run(limits.resume_task_type, task_type)

    def pause_queue(self, queue: str, by: str | None = None, reason: str | None = None) -> Pause | None:
        """Stop publishing to a queue until ``resume_queue``. Workers can still take the messages in it.

        Unconfirmed messages stay in the outbox meanwhile. The queue for tasks with a priority is a separate queue. The
        queue need not exist yet. Returns the same as ``pause_task_type``.
        """
        return self._db.run(limits.pause_queue, queue, by, reason)

    def resume_queue(self, queue: str) -> Pause | None:
        """End the pause of a queue and return it, or None if it was not paused."""
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
        """Limit a type. None removes a limit; a limit that is not given stays unchanged.

        ``max_queue_length`` limits the ready messages in its queue (the lowest limit of the types that share a queue
        applies), ``max_in_flight`` its tasks in flight, ``rate_limit`` its tasks per second from all runners together
        (0.000001 to 1000000). Messages above a lowered limit stay in the queue. ``max_run_seconds`` is how long a run
        may take from its start. Ended runs are kept for ``keep_runs``: the pruner deletes older ones, but none that a
        task follows. Raises ``UnknownTaskType``.
        """
        limited = max_queue_length, max_in_flight, rate_limit, max_run_seconds, keep_runs
        self._db.run(limits.set_task_type_limits, task_type, *limited)

    def set_queue_limit(self, queue: str, max_queue_length: int | None) -> None:
        """Limit the ready messages in a queue, and in the queue of the same tasks with a priority; None: no limit.

        Sets ``max_queue_length`` of all task types with this ``backend_name``. Raises ``UnknownQueue``.
        """
        self._db.run(limits.set_queue_limit, queue, max_queue_length)

    def get_controls(self) -> Controls:
        """Return the limits and pauses of all task types and queues."""
        return self._db.run(limits.get)

    # Tasks

    def create_tasks(self, tasks: Iterable[Task], policy: str = "recurring") -> list[Task]:
        """Create the tasks that do not exist yet, and return all of them. Idempotent.

        Each distinct task is returned once, in the order of its first appearance in the input.

        Keys: ``type``, ``arguments`` (``{"args": list, "kwargs": dict}``) and ``next_run`` are required; ``policy``
        defaults to the argument, ``status`` to next_run_not_scheduled, ``retries_left`` to the type's num_retries or
        0, ``priority`` to None. A task exists if type, arguments, policy, priority and status are equal
        (next_run_not_scheduled and next_run_scheduled count as equal), and for a one-shot task next_run too. Concurrent
        calls create one task. Raises ``UnknownTaskType``. Raises ``InvalidArgument`` for a recurring task of a type
        without default_interval, and for arguments larger than ``max_arguments_bytes`` or nested deeper than
        ``max_arguments_depth``.
        """
        limits = self.max_arguments_bytes, self.max_arguments_depth
        return self._db.run(create_tasks, validate.many("tasks", tasks), policy, *limits)

    def add_task(self, task: Task) -> tuple[Task, bool]:
        """Create a task unless it exists, as ``create_tasks`` does; return it, and whether it was created."""
        return self._db.run(tasks.add, task, self.max_arguments_bytes, self.max_arguments_depth)

    def set_status_tasks(
        self, task_ids: Iterable[int], status: str = "disabled", next_run: datetime | None = None
    ) -> None:
        """Set the status of tasks, and their next_run if given. Runs in flight no longer change these tasks.

        ``status`` is next_run_not_scheduled, next_run_scheduled, completed or disabled. Unknown ids are ignored.
        """
        self._db.run(tasks.set_status, validate.many("task_ids", task_ids), status, next_run)

    def disable_tasks(self, task_ids: Iterable[int]) -> None:
        """Disable tasks. Runs in flight no longer change them. Unknown ids are ignored."""
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
        """Return the tasks that meet all given conditions, ordered by id, at most ``limit``.

        ``task_id`` is one id or several. ``before`` and ``after`` are inclusive limits of next_run.
        """
        several = [task_id] if isinstance(task_id, int) else task_id
        ids = None if several is None else validate.many("task_id", several)
        return self._db.run(tasks.search, ids, task_type, status, priority, policy, before, after, limit)

    def get_tasks(self, task_ids: Iterable[int]) -> list[Task]:
        """Return the tasks with these ids, ordered by id. Unknown ids are ignored."""
        return self._db.run(tasks.get, validate.many("task_ids", task_ids))

    def peek_ready_tasks(
        self, task_type: str, timestamp: datetime | None = None, num_tasks: int | None = None
    ) -> list[Task]:
        """Return due tasks without priority, ordered by next_run. Changes nothing.

        A task is due if its next_run is not later than ``timestamp``. ``num_tasks`` None means all. For an unknown type
        the list is empty.
        """
        return self._db.run(tasks.peek_ready, task_type, timestamp, num_tasks)

    def grab_ready_tasks(
        self, task_type: str, timestamp: datetime | None = None, num_tasks: int | None = None
    ) -> list[Task]:
        """Take the tasks that ``peek_ready_tasks`` returns: set their status to next_run_scheduled.

        Two callers never get the same due task, in any process: a concurrent call gets the next tasks.
        """
        return self._db.run(tasks.grab_ready, task_type, timestamp, num_tasks)

    def peek_ready_priority_tasks(
        self, task_type: str, timestamp: datetime | None = None, num_tasks: int | None = None
    ) -> list[Task]:
        """Return due tasks with a priority, ordered by priority (high, normal, low), then next_run. Changes nothing.

        ``timestamp`` and ``num_tasks`` as in ``peek_ready_tasks``.
        """
        return self._db.run(tasks.peek_ready_priority, task_type, timestamp, num_tasks)

    def grab_ready_priority_tasks(
        self, task_type: str, timestamp: datetime | None = None, num_tasks: int | None = None
    ) -> list[Task]:
        """Take the tasks that ``peek_ready_priority_tasks`` returns: set their status to next_run_scheduled.

        Two callers never get the same due task, in any process.
        """
        return self._db.run(tasks.grab_ready_priority, task_type, timestamp, num_tasks)

    # Runs

    def schedule_task_run(
        self, task_id: int, backend_id: str, metadata: dict[str, Any] | None = None, timestamp: datetime | None = None
    ) -> TaskRun:
        """Create a run of a task that was grabbed, and return it. The end of this run decides what happens to the task.

        ``backend_id`` is the id of the Celery message, ``timestamp`` the time of scheduling. Raises
        ``UnknownTask`` and ``DuplicateBackendId``.
        """
        return self._db.run(runs.schedule, task_id, backend_id, metadata, timestamp)

    def mass_schedule_task_runs(self, task_runs: Iterable[TaskRun]) -> None:
        """Create many runs in one statement, all or none.

        Takes dicts with ``task`` and ``backend_id``, optionally ``metadata`` and ``scheduled``. Raises ``UnknownTask``
        and ``DuplicateBackendId``.
        """
        self._db.run(runs.mass_schedule, validate.many("task_runs", task_runs))

    def start_task_run(
        self, backend_id: str, metadata: dict[str, Any] | None = None, timestamp: datetime | None = None
    ) -> TaskRun | None:
        """Record that a run started, and return it, or None for an unknown ``backend_id``.

        ``metadata`` is merged into that of the run; new values replace old ones. A run that has started already is
        returned unchanged.
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
        """Record that a run ended, update its task, and return the run, or None for an unknown ``backend_id``.

        ``status`` is eventful, uneventful, failed, permfailed or lost. ``metadata`` is merged into that of the run; new
        values replace old ones. ``result`` is stored as ``metadata["result"]``. A run that has ended already is
        returned unchanged, unless that end was provisional: lost, or known from Celery's own events only. What an end
        does to its task: docs/state-machine.md.
        """
        return self._db.run(runs.end, backend_id, status, metadata, timestamp, result)

    def get_task_runs(self, task_ids: Iterable[int], limit: int | None = None) -> list[TaskRun]:
        """Return the runs of these tasks, ordered by id, at most ``limit``."""
        return self._db.run(runs.get_of_tasks, validate.many("task_ids", task_ids), limit)

    # Archive

    def filter_task_to_archive(
        self,
        after_ts: str | datetime,
        before_ts: str | datetime,
        limit: int = 10,
        page_token: str | None = None,
    ) -> dict[str, Any]:
        """Return a page of the runs to archive: runs of disabled tasks and of completed one-shot tasks.

        The page has runs whose ``started`` (``scheduled``, if they never started) is in ``[after_ts, before_ts[``,
        ordered by that time, at most ``limit``. ``after_ts`` and ``before_ts`` are datetimes with a time zone or ISO
        8601 strings, in UTC if they have no time zone. Pass ``next_page_token`` to get the next page; the last page has
        none.

        ``tasks`` is a list with a dict for each run: ``task_id``, ``task_policy``, ``task_status``, ``task_run_id``,
        ``arguments``, ``type``, ``backend_id``, ``metadata``, ``scheduled``, ``started``, ``ended`` and
        ``task_run_status``. In ``arguments``, ``args`` is ``{index: value}`` and ``kwargs`` a JSON string. Each
        run is on one page, also if a task has more runs than ``limit``. Pages may be deleted one by one.
        """
        return self._db.run(archive.get_page, after_ts, before_ts, limit, page_token)

    def delete_archived_tasks(self, task_ids: Iterable[Mapping[str, int]]) -> None:
        """Delete exactly these runs, and their tasks that have no run left.

        Takes dicts with ``task_id`` and ``task_run_id``, such as the rows of ``filter_task_to_archive``. Other keys,
        and runs that do not exist, are ignored. A task that has been set to run again is not deleted. Raises
        ``InvalidArgument`` for a run of another task.
        """
        self._db.run(archive.delete, validate.many("task_ids", task_ids))

    # Listers

    def get_listers(self) -> list[Lister]:
        """Return all listers, ordered by creation."""
        return self._db.run(listers.get_all)

    def get_listers_by_id(self, lister_ids: Iterable[UUID | str]) -> list[Lister]:
        """Return the listers with these ids, ordered by creation. Unknown ids are ignored."""
        return self._db.run(listers.get_by_id, validate.many("lister_ids", lister_ids))

    def get_lister(self, name: str, instance_name: str | None = None) -> Lister | None:
        """Return the lister of that name and instance (None means the empty name), or None if it does not exist."""
        return self._db.run(listers.get, name, instance_name)

    def get_or_create_lister(self, name: str, instance_name: str | None = None) -> Lister:
        """Return the lister of that name and instance; create it if it does not exist."""
        return self._db.run(listers.get_or_create, name, instance_name)

    def update_lister(self, lister: Lister) -> Lister:
        """Write ``current_state`` and the fields about listings and first visits; return the updated lister.

        ``updated`` must equal the value in the database; each update increases it. Raises ``StaleData`` if another
        program has updated the lister meanwhile.
        """
        return self._db.run(listers.update, lister)

    # Origins

    def record_listed_origins(self, listed_origins: Iterable[ListedOrigin]) -> list[ListedOrigin]:
        """Insert or update listed origins and return the rows, each key once, in the order of the input.

        If an origin exists, extra_loader_arguments, enabled, last_update and last_seen are updated, first_seen is not.
        If a key is given several times, the last one is used. Raises ``UnknownLister``.
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
        """Return a page of origins, ordered by lister, url and visit type; ``enabled`` None means all.

        All visit types of a url are on one page. So a page may be shorter than ``limit``, and it is longer if one url
        has more visit types than ``limit``. ``page_token`` is the ``next_page_token`` of the previous page; that of the
        last page is None.
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
        """Take up to ``count`` origins to visit, in the policy's order, and record that they were scheduled.

        Two concurrent callers never get the same url and visit type. If two listers list the same url, two origins are
        returned. Not taken are origins scheduled less than ``absolute_cooldown`` ago; origins scheduled less than
        ``scheduled_cooldown`` ago and not visited since; and origins whose last visit failed, or found nothing, less
        than ``failed_cooldown`` or ``not_found_cooldown`` ago. None disables a cooldown. ``tablesample`` restricts the
        choice to that percentage of the table. Policies: oldest_scheduled_first, never_visited_oldest_update_first,
        already_visited_order_by_lag, origins_without_last_update, stop_after_success and, for one lister,
        first_visits_after_listing. Raises ``UnknownPolicy`` for any other.
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
        """Record outcomes of visits: they decide how soon origins are visited again. Idempotent.

        Three failed or not_found visits in a row disable an origin. Outcomes of one origin are applied in order of
        their dates. An outcome that is not newer than the last visit is ignored, and so are the statuses created and
        ongoing. full and partial without a snapshot count as failed. Origins that no lister lists get statistics too.
        """
        self._db.run(record_outcomes, validate.many("outcomes", outcomes), Random())

    def origin_visit_stats_upsert(self, origin_visit_stats: Iterable[OriginVisitStats]) -> None:
        """Insert or update statistics of visits. None keeps the stored value.

        next_position_offset and successive_visits are always written. Raises ``SchedulerException`` if a url and visit
        type are given twice.
        """
        self._db.run(stats.upsert, validate.many("origin_visit_stats", origin_visit_stats))

    def origin_visit_stats_get(self, ids: Iterable[tuple[str, str]]) -> list[OriginVisitStats]:
        """Return the statistics of these (url, visit type), in the order given. Unknown ones are ignored.

        A key that is given twice is returned twice.
        """
        return self._db.run(stats.get, validate.many("ids", ids))

    def visit_scheduler_queue_position_get(self) -> dict[str, int]:
        """Return the position of the queue of origins without last_update, by visit type. It has no unit."""
        return self._db.run(stats.queue_positions)

    def visit_scheduler_queue_position_set(self, visit_type: str, position: int) -> None:
        """Set the position of the queue of a visit type, forwards or backwards."""
        self._db.run(stats.set_queue_position, visit_type, position)

    # Metrics

    def update_metrics(
        self, lister_id: UUID | str | None = None, timestamp: datetime | None = None
    ) -> list[SchedulerMetrics]:
        """Count the origins of that lister, or of all, store the counts and return them; ``[]`` for an unknown lister.

        They are ordered by lister and visit type. ``timestamp`` is stored as their ``last_update``.
        """
        return self._db.run(metrics.update, lister_id, timestamp)

    def get_metrics(self, lister_id: UUID | str | None = None, visit_type: str | None = None) -> list[SchedulerMetrics]:
        """Return the stored counts, ordered by lister and visit type. Both filters may be combined."""
        return self._db.run(metrics.get, lister_id, visit_type)
