"""What the programs can be told, with defaults and bounds. Names that end in ``_seconds`` are in seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from swh_sched_runner.config import checks, urls
from swh_sched_runner.config.queues import template_fault

# A year bounds a wait: it rules out inf and nan as well, which TOML can write and a clock can't wait for.
Seconds = Annotated[float, Meta(gt=0, le=31_622_400)]
Cooldown = Annotated[float, Meta(ge=0, le=3_162_240_000)] | None
Timeout = Annotated[float, Meta(ge=0.001, le=2_147_483)] | None  # PostgreSQL counts milliseconds, in 31 bits
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Name = Annotated[str, Meta(min_length=1)]
Weights = dict[str, Annotated[float, Meta(gt=0, le=1_000_000)]]
# Below the 16 MiB that RabbitMQ 4 takes unless it is told otherwise, and above what anybody sends on purpose.
MAX_ARGUMENTS_BYTES = 8_000_000
# Python's own readers and writers of JSON give up at a thousand.
MAX_ARGUMENTS_DEPTH = 100
# Those that choose among all origins; first_visits_after_listing needs a lister, which only its caller knows.
POLICIES = (
    "oldest_scheduled_first",
    "never_visited_oldest_update_first",
    "already_visited_order_by_lag",
    "origins_without_last_update",
    "stop_after_success",
)


class DatabaseSettings(Struct, frozen=True):
    """Where the database is. ``options`` go to libpq: sslmode, sslrootcert, …

    A timeout counts where the role, the database and the URL set none; None leaves it to the server. An answer is
    waited for a quarter longer than a statement may take, from 1 s to 5 s.
    """

    url: Annotated[str | None, Meta(extra={"check": urls.database_fault})] = None
    password_file: Name | None = None
    min_pool_conns: Annotated[int, Meta(ge=0, le=1_000)] = 1
    max_pool_conns: Annotated[int, Meta(ge=1, le=1_000)] = 10
    options: dict[str, str] = field(default_factory=dict)
    lock_timeout_seconds: Timeout = 30.0
    statement_timeout_seconds: Timeout = 20.0


class QueueSettings(Struct, frozen=True):
    """How workers declare a queue: its AMQP arguments, such as ``{"x-queue-type": "quorum"}``."""

    arguments: dict[str, Any] = field(default_factory=dict)


class TaskSettings(Struct, frozen=True):
    """What a task may be: how many bytes of JSON its arguments take, and how deep they are nested."""

    max_arguments_bytes: Annotated[int, Meta(ge=1_000, le=500_000_000)] = MAX_ARGUMENTS_BYTES
    max_arguments_depth: Annotated[int, Meta(ge=2, le=500)] = MAX_ARGUMENTS_DEPTH


class BrokerSettings(Struct, frozen=True):
    """Where the broker is, and how its queues are named and declared. ``ssl`` is Celery's ``broker_use_ssl``."""

    url: Annotated[str | None, Meta(extra={"check": urls.broker_fault})] = None
    password_file: Name | None = None
    result_backend: Annotated[str | None, Meta(extra={"check": urls.any_fault})] = None
    priority_queue: Annotated[str, Meta(extra={"check": template_fault})] = "save_code_now:{backend_name}"
    event_exchange: Name = "celeryev"
    event_queue: Name = "swh-sched-runner.events"
    ssl: dict[str, Any] | None = None
    transport_options: dict[str, Any] = field(default_factory=dict)
    queues: dict[str, QueueSettings] = field(default_factory=dict)
    confirm_timeout_seconds: Seconds = 30.0


class RunnerSettings(Struct, frozen=True):
    """How the runner dispatches: how often it looks, how many tasks a batch has, which types (none: all)."""

    period_seconds: Seconds = 1.0
    batch_size: Count = 1000
    task_types: tuple[Name, ...] = ()


class ListenerSettings(Struct, frozen=True):
    """How the listener writes events: in batches of so many messages or bytes, or when its oldest one is so old.

    ``prefetch`` bounds what the broker hands out: two batches, one that is received and one that is written, and what
    waits for the database.

    A message longer than ``max_event_bytes`` is no event. What can't be read or recorded is rejected, in so many rows,
    bytes and seconds at most.
    """

    batch_size: Count = 1000
    batch_bytes: Annotated[int, Meta(ge=65_536, le=268_435_456)] = 4_194_304
    flush_seconds: Seconds = 0.02
    prefetch: Annotated[int, Meta(ge=1, le=65_535)] = 4000
    max_event_bytes: Annotated[int, Meta(ge=1_024, le=16_777_216)] = 1_000_000
    rejected_event_rows: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    rejected_event_bytes: Annotated[int, Meta(ge=1, le=1_099_511_627_776)] = 67_108_864
    rejected_event_seconds: Seconds = 30 * 86_400.0


class PrunerSettings(Struct, frozen=True):
    """How often the pruner looks for ended runs that are older than their task type keeps them."""

    period_seconds: Seconds = 3600.0


class RescuerSettings(Struct, frozen=True):
    """How the rescuer finds runs whose end nobody reports, and what it waits for: see docs/reference/rescuer.md.

    ``max_lost_fraction``: of more of all open runs at once it judges none.
    """

    period_seconds: Seconds = 30.0
    batch_size: Count = 100
    flush_seconds: Seconds = 5.0
    away_seconds: Seconds = 60.0
    silent_seconds: Seconds = 600.0
    leaving_seconds: Seconds = 3600.0
    drain_seconds: Seconds = 30.0
    waiting_seconds: Seconds = 600.0
    between_looks_seconds: Seconds = 10.0
    max_lost_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.5


class VisitSettings(Struct, frozen=True):
    """How origins of one visit type are chosen: a weight for each policy, cooldowns (None is off), how often.

    ``task_type`` is by default ``load-<visit type>``.
    """

    task_type: Name | None = None
    policies: Annotated[Weights, Meta(extra={"names": POLICIES})] = field(
        default_factory=lambda: {
            "already_visited_order_by_lag": 4.0,
            "never_visited_oldest_update_first": 4.0,
            "origins_without_last_update": 2.0,
        }
    )
    absolute_cooldown_seconds: Cooldown = 12 * 3600.0
    scheduled_cooldown_seconds: Cooldown = 7 * 86400.0
    failed_cooldown_seconds: Cooldown = 14 * 86400.0
    not_found_cooldown_seconds: Cooldown = 31 * 86400.0
    period_seconds: Seconds = 10.0
    batch_size: Count = 1000


class WebSettings(Struct, frozen=True):
    """Where Prometheus and health checks are answered. ``port`` None is the default of the command, 0 is nowhere.

    ``allowed_hosts`` are names that requests may give for this host, beside its addresses, its own and localhost.
    """

    host: Name = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] | None = None
    allowed_hosts: Annotated[tuple[str, ...], Meta(extra={"check": checks.host_names})] = ()


class LogSettings(Struct, frozen=True):
    """How logs look; ``auto`` is console on a terminal and logfmt elsewhere."""

    format: Literal["auto", "console", "logfmt", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error", "critical"] = "info"


class Settings(Struct, frozen=True):
    """All that the programs can be told. ``data_directory`` None is the user's data directory."""

    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    tasks: TaskSettings = field(default_factory=TaskSettings)
    runner: RunnerSettings = field(default_factory=RunnerSettings)
    listener: ListenerSettings = field(default_factory=ListenerSettings)
    visits: dict[str, VisitSettings] = field(default_factory=dict)
    pruner: PrunerSettings = field(default_factory=PrunerSettings)
    rescuer: RescuerSettings = field(default_factory=RescuerSettings)
    web: WebSettings = field(default_factory=WebSettings)
    log: LogSettings = field(default_factory=LogSettings)
    data_directory: Name | None = None
