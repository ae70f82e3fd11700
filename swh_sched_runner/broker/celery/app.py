"""The Celery application of the scheduler itself, and connections to its broker."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError

from swh_sched_runner import worker
from swh_sched_runner.config import urls
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable, ConfigurationError

HEARTBEAT_SECONDS = 10
# Celery waits two minutes for the answer of a result backend.
RESULT_SECONDS = 20.0
# What kombu, py-amqp and redis-py raise for options that they don't know, or whose values are of a wrong kind.
WRONG_OPTION = (TypeError, ValueError, LookupError, AttributeError, ImportError)
Kind = Literal["amqp", "redis"]
_VERIFY = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


def create_app(settings: BrokerSettings) -> Celery:
    """A Celery application for the broker of ``settings``: JSON only, events reported, queues as configured.

    It is nobody's current application until its ``set_current()`` is called. Raises ``ConfigurationError``.
    """
    _check(settings)
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
        redis_socket_timeout=RESULT_SECONDS,  # of a result backend
        redis_socket_connect_timeout=RESULT_SECONDS,
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


def _check(settings: BrokerSettings) -> None:
    """Raises ``ConfigurationError`` for what kombu would not survive, or would quote."""
    url, options = settings.url or "", settings.transport_options
    if url and (fault := urls.broker_shape_fault(url)) is not None:
        raise ConfigurationError(reason=f"broker.url {fault}")
    if not isinstance(options.get("socket_settings") or {}, dict):
        raise ConfigurationError(reason="broker.transport_options.socket_settings must be a table")
    if urls.scheme_of(url) == "sentinel" and not options.get("master_name"):
        raise ConfigurationError(reason="broker.transport_options.master_name is missing: sentinel:// needs it")
    if url and (given := urls.tls_options(url)):
        _check_files(given, "broker.url: ssl_")
    _check_files({key.removeprefix("ssl_"): value for key, value in (settings.ssl or {}).items()}, "broker.ssl.")


def _check_files(options: Mapping[str, Any], prefix: str) -> None:
    """Whether the files of TLS can be read, and are what they should be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    password = options.get("keyfile_password") or options.get("password") or ""
    checks: dict[str, Callable[[Any], object]] = {
        "ca_certs": context.load_verify_locations,
        "certfile": lambda file: context.load_cert_chain(file, options.get("keyfile"), lambda: str(password)),
        "keyfile": lambda file: Path(file).open("rb").close(),
        "ciphers": context.set_ciphers,
    }
    for name, check in checks.items():
        if options.get(name) is not None:
            try:
                check(options[name])
            except (OSError, TypeError, ValueError) as error:  # an error of TLS is an OSError
                raise ConfigurationError(reason=f"{prefix}{name} can't be used: {reason_of(error)}") from error


def connect(app: Celery, **options: Any) -> Connection:
    """A new open connection to the broker. Raises ``BrokerUnavailable``, ``ConfigurationError``.

    ``options`` are kombu's; several URLs, separated by ``;``, are tried one after the other.
    """
    connection = _connection(app, heartbeat=HEARTBEAT_SECONDS, **options)
    try:
        connection.ensure_connection(max_retries=len(connection.alt) or 1, interval_start=0, interval_step=0)
    except Exception as error:
        connection.release()
        if isinstance(error, (OperationalError, *connection.connection_errors, *connection.channel_errors)):
            raise BrokerUnavailable(reason=reason_of(error)) from error
        if isinstance(error, WRONG_OPTION):
            raise _misconfigured(error) from error
        raise
    return connection


def kind_of(app: Celery) -> Kind:
    """Which way of talking the broker needs; asks nobody. Raises ``ConfigurationError`` where there is none."""
    transport = _connection(app).transport
    match transport.driver_type, transport.driver_name:
        case "amqp", "py-amqp":
            return "amqp"
        case "redis", _:
            return "redis"
    raise ConfigurationError(
        reason=f"a broker of the kind {transport.driver_name} is not supported: use RabbitMQ (amqp://) "
        "or Redis, Valkey (redis://)"
    )


def _connection(app: Celery, **options: Any) -> Connection:
    # The URL is passed on since Celery lets the environment's CELERY_BROKER_URL win over what was configured.
    try:
        connection: Connection = app.connection_for_write(app.conf["broker_url"], **options)
        connection.transport  # noqa: B018  (made when first asked for)
    except WRONG_OPTION as error:
        raise _misconfigured(error) from error
    return connection


def _misconfigured(error: Exception) -> ConfigurationError:
    # The URL was looked at before: what is left are the options, which kombu hands on as they are.
    reason = f"broker.url, broker.transport_options or broker.ssl are not accepted: {reason_of(error)}"
    return ConfigurationError(reason=reason)


def reason_of(error: BaseException) -> str:
    """What an error says, in one line, and its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
