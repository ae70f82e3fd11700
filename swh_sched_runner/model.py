"""The data of the backend: plain dicts for tasks, attrs classes for listers, origins and visits."""

from __future__ import annotations

import datetime
import enum
from typing import Any, TypedDict
from uuid import UUID

import attr
import attrs

from swh_sched_runner.exc import shown


class TimestampText(str):
    """A timestamp that a datetime cannot hold, as PostgreSQL's text: infinite, before the year 1 or after 9999 (UTC).

    It is returned instead of a datetime, for rows that other programs wrote. It can be compared with datetimes: it is
    before or after all of them. It is refused as an argument.
    """

    __slots__ = ()

    @property
    def is_past(self) -> bool:
        """Whether it is before all datetimes; otherwise it is after all of them."""
        return self.startswith("-") or self.endswith("BC")

    def __lt__(self, other: object) -> bool:
        return self._side() < self._side_of(other)

    def __le__(self, other: object) -> bool:
        return self._side() <= self._side_of(other)

    def __gt__(self, other: object) -> bool:
        return self._side() > self._side_of(other)

    def __ge__(self, other: object) -> bool:
        return self._side() >= self._side_of(other)

    def _side(self) -> int:
        return -1 if self.is_past else 1

    def _side_of(self, other: object) -> int:
        if isinstance(other, TimestampText):
            return other._side()
        if isinstance(other, datetime.datetime):
            return 0
        raise TypeError(f"a timestamp can't be compared with a {type(other).__name__}")


# The type of timestamps that are read.
Timestamp = datetime.datetime | TimestampText


# Of tasks.
STATUSES = ("next_run_not_scheduled", "next_run_scheduled", "completed", "disabled")
POLICIES = ("recurring", "oneshot")
PRIORITIES = ("high", "normal", "low")
# In bytes; what AMQP calls a short string.
LONGEST_QUEUE = 255


class TaskType(TypedDict, total=False):
    """A task type. Intervals and ``retry_delay`` are ``timedelta`` or None."""

    type: str
    description: str
    backend_name: str
    default_interval: datetime.timedelta | None
    min_interval: datetime.timedelta | None
    max_interval: datetime.timedelta | None
    backoff_factor: float | None
    max_queue_length: int | None
    num_retries: int | None
    retry_delay: datetime.timedelta | None


class Task(TypedDict, total=False):
    """A task. ``arguments`` is ``{"args": list, "kwargs": dict}``; ``next_run`` is timezone-aware."""

    type: str
    arguments: dict[str, Any]
    next_run: datetime.datetime
    policy: str
    status: str
    retries_left: int
    priority: str | None
    id: int
    current_interval: datetime.timedelta | None


class TaskRun(TypedDict, total=False):
    """A run of a task. Timestamps are timezone-aware or None; ``status`` is a task_run_status."""

    id: int
    task: int
    backend_id: str
    scheduled: datetime.datetime | None
    started: datetime.datetime | None
    ended: datetime.datetime | None
    metadata: dict[str, Any]
    status: str


class Evidence(enum.IntEnum):
    """What the end of a run is based on. A higher one corrects a lower one; among equals the first stays."""

    LOST = 1
    SUCCEEDED = 2  # task-succeeded alone: whether anything changed is unknown
    FAILED = 3  # failed, revoked or rejected
    RESULT = 4  # the task's own result, or a call through the API


class LastVisitStatus(enum.Enum):
    """How the last visit of an origin ended."""

    successful = "successful"
    failed = "failed"
    not_found = "not_found"


class Unchanged(enum.Enum):
    """The default of arguments that leave a value unchanged, where None has another meaning."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


def _aware(instance: Any, attribute: attr.Attribute[Any], value: Any) -> None:
    if value is None or isinstance(value, TimestampText):
        return
    if not isinstance(value, datetime.datetime):
        raise TypeError(f"{attribute.name} must be a datetime, not {shown(value)}")
    if value.tzinfo is None or value.tzinfo.utcoffset(value) is None:
        raise ValueError(f"{attribute.name} must be a datetime with a time zone, not {shown(value)}")


def _timestamp(**kwargs: Any) -> Any:
    return attrs.field(default=None, validator=_aware, **kwargs)


@attrs.define(slots=True)
class Lister:
    """A lister for one instance of a forge."""

    name: str
    instance_name: str
    id: UUID | None = None
    current_state: dict[str, Any] = attrs.field(factory=dict)
    created: datetime.datetime | None = _timestamp()
    updated: datetime.datetime | None = _timestamp()
    last_listing_finished_at: datetime.datetime | None = _timestamp()
    first_visits_queue_prefix: str | None = None
    first_visits_scheduled_at: datetime.datetime | None = _timestamp()


@attrs.define(slots=True, order=True)
class ListedOrigin:
    """An origin as listed by one lister. Origins are compared and sorted by lister, url and visit type."""

    lister_id: UUID
    url: str
    visit_type: str
    extra_loader_arguments: dict[str, Any] = attrs.field(factory=dict, order=False)
    last_update: datetime.datetime | None = _timestamp(order=False)
    enabled: bool = attrs.field(default=True, order=False)
    first_seen: datetime.datetime | None = _timestamp(order=False)
    last_seen: datetime.datetime | None = _timestamp(order=False)
    is_fork: bool | None = attrs.field(default=None, order=False)
    forked_from_url: str | None = attrs.field(default=None, order=False)


def _last_visit_status(value: str | LastVisitStatus | None) -> LastVisitStatus | None:
    return LastVisitStatus(value) if isinstance(value, str) else value


@attrs.define(slots=True, frozen=True)
class OriginVisitStats:
    """Statistics about the visits of one origin. ``last_snapshot`` is the identifier of its content, in bytes."""

    url: str
    visit_type: str
    last_successful: datetime.datetime | None = _timestamp()
    last_visit: datetime.datetime | None = _timestamp()
    last_visit_status: LastVisitStatus | None = attrs.field(
        default=None,
        converter=_last_visit_status,
        validator=attrs.validators.optional(attrs.validators.instance_of(LastVisitStatus)),
    )
    last_scheduled: datetime.datetime | None = _timestamp()
    last_snapshot: bytes | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(bytes))
    )
    next_visit_queue_position: int | None = None
    next_position_offset: int = 4
    successive_visits: int = 1


@attrs.define(slots=True, frozen=True)
class VisitOutcome:
    """The outcome of a visit. ``status`` is full, partial, failed, not_found, created or ongoing.

    ``snapshot`` is the identifier of the content that was found, in bytes. full and partial without a snapshot count as
    failed.
    """

    url: str
    visit_type: str
    date: datetime.datetime = attrs.field(validator=[attrs.validators.instance_of(datetime.datetime), _aware])
    status: str
    snapshot: bytes | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(bytes))
    )


@attrs.define(slots=True, frozen=True)
class SchedulerMetrics:
    """Counts of the origins of one lister and visit type, as of ``last_update``."""

    lister_id: UUID
    visit_type: str
    last_update: datetime.datetime | None = _timestamp()
    origins_known: int = 0
    origins_enabled: int = 0
    origins_never_visited: int = 0
    origins_with_pending_changes: int = 0


@attrs.define(slots=True)
class PaginatedListedOriginList:
    """A page of origins; ``next_page_token`` is None on the last one."""

    results: list[ListedOrigin]
    next_page_token: tuple[str, str] | None = None


@attrs.define(slots=True, frozen=True)
class Pause:
    """A pause of a task type or queue: since when, by whom, and why."""

    since: Timestamp = attrs.field(validator=[attrs.validators.instance_of((datetime.datetime, TimestampText)), _aware])
    by: str | None = None
    reason: str | None = None


@attrs.define(slots=True, frozen=True)
class TypeControls:
    """The limits of a task type (None: no limit), and its pause (None: not paused).

    ``rate_limit`` is in tasks per second. A run may take ``max_run_seconds``; ended runs are kept for ``keep_runs``.
    """

    type: str
    queue: str
    max_queue_length: int | None = None
    max_in_flight: int | None = None
    rate_limit: float | None = None
    pause: Pause | None = None
    max_run_seconds: float | None = None
    keep_runs: datetime.timedelta | None = None


@attrs.define(slots=True, frozen=True)
class QueueControls:
    """A queue and its pause (None: not paused)."""

    queue: str
    pause: Pause | None = None


@attrs.define(slots=True, frozen=True)
class Controls:
    """All task types, and their queues together with all other paused queues, each ordered by name."""

    task_types: list[TypeControls]
    queues: list[QueueControls]
