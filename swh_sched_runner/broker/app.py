"""The Celery application of the scheduler itself, and connections to its broker."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any, Literal

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError

from swh_sched_runner import worker
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable, ConfigurationError

HEARTBEAT_SECONDS = 10
Kind = Literal["amqp", "redis", "memory"]
_VERIFY = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


def create_app(settings: BrokerSettings) -> Celery:
    """A Celery application for the broker of ``settings``: JSON only, events reported, queues as configured.

    It is nobody's current application until its ``set_current()`` is called.
    """
    app = Celery("swh_sched_runner", broker=settings.url, backend=settings.result_backend, set_as_current=False)
    worker.configure(app, settings.event_queue)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        event_exchange=settings.event_exchange,
        broker_heartbeat=HEARTBEAT_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_transport_options=dict(settings.transport_options),
        broker_use_ssl=tls(settings),
        task_queues=[
            Queue(name, Exchange(name, type="direct"), routing_key=name, queue_arguments=dict(queue.arguments))
            for name, queue in settings.queues.items()
            if name != settings.event_queue
        ]
        or None,
    )
    return app


def task_names(app: Celery, modules: Iterable[str]) -> set[str]:
    """The names of the tasks that ``modules`` define for ``app``, which they are imported into.

    Raises ``ModuleNotFoundError``.
    """
    app.conf.include = list(modules)
    app.loader.import_default_modules()
    app.finalize(auto=True)
    return {name for name in app.tasks if not name.startswith("celery.")}


def tls(settings: BrokerSettings) -> dict[str, Any] | None:
    """``broker.ssl`` as the transport wants it; the broker's name is checked wherever its certificate is."""
    if settings.ssl is None:
        return None
    options = {key.removeprefix("ssl_"): value for key, value in settings.ssl.items()}
    wanted = options.get("cert_reqs", "required")
    if isinstance(wanted, str):
        if wanted.removeprefix("CERT_").lower() not in _VERIFY:
            raise ConfigurationError(reason=f"broker.ssl.cert_reqs must be one of {', '.join(_VERIFY)}, not {wanted!r}")
        wanted = _VERIFY[wanted.removeprefix("CERT_").lower()]
    options["cert_reqs"] = wanted
    if (settings.url or "").startswith(("redis", "sentinel")):
        options.setdefault("check_hostname", wanted == ssl.CERT_REQUIRED)
        return {f"ssl_{key}": value for key, value in options.items()}
    if wanted != ssl.CERT_NONE:
        options.setdefault("server_hostname", None)  # None: kombu puts in the name of the URL
    return options


def connect(app: Celery, **options: Any) -> Connection:
    """A new open connection to the broker. Raises ``BrokerUnavailable``, ``ConfigurationError``.

    ``options`` are kombu's; several URLs, parted by ``;``, are tried in turn.
    """
    connection = _connection(app, heartbeat=HEARTBEAT_SECONDS, **options)
    try:
        connection.ensure_connection(max_retries=len(connection.alt) or 1, interval_start=0, interval_step=0)
    except ValueError as error:  # such as a database of Redis that is no number
        raise ConfigurationError(reason=f"broker.url: {reason_of(error)}") from error
    except Exception as error:
        connection.release()
        if not isinstance(error, (OperationalError, *connection.connection_errors, *connection.channel_errors)):
            raise
        raise BrokerUnavailable(reason=reason_of(error)) from error
    return connection


def kind_of(app: Celery) -> Kind:
    """Which way of talking the broker needs; asks nobody. Raises ``ConfigurationError`` where there is none."""
    transport = _connection(app).transport
    match transport.driver_type, transport.driver_name:
        case "amqp", "py-amqp":
            return "amqp"
        case "redis", _:
            return "redis"
        case "memory", _:
            return "memory"
    raise ConfigurationError(
        reason=f"a broker of the kind {transport.driver_name} is not supported: use RabbitMQ (amqp://) "
        "or Redis, Valkey (redis://)"
    )


def _connection(app: Celery, **options: Any) -> Connection:
    # The URL is passed on since Celery lets the environment's CELERY_BROKER_URL win over what was configured.
    connection: Connection = app.connection_for_write(app.conf["broker_url"], **options)
    return connection


def reason_of(error: BaseException) -> str:
    """What an error says, in one line, and its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
