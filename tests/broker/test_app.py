"""The scheduler's own Celery application."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from swh_sched_runner.broker.celery.app import connect, create_app, kind_of, tls
from swh_sched_runner.config.settings import BrokerSettings, QueueSettings
from swh_sched_runner.exc import BrokerUnavailable, ConfigurationError
from tests.support.servers.proxy import Proxy


def test_only_json_goes_in_and_out() -> None:
    conf = create_app(BrokerSettings(url="amqp://")).conf
    assert conf.accept_content == ["json"]
    assert {conf.task_serializer, conf.result_serializer, conf.event_serializer} == {"json"}


def test_options_of_the_transport_and_of_queues_are_passed_on() -> None:
    settings = BrokerSettings(
        url="redis://localhost",
        transport_options={"visibility_timeout": 7200},
        queues={"load": QueueSettings({"x-queue-type": "quorum"})},
    )
    app = create_app(settings)

    assert app.conf.broker_transport_options == {"visibility_timeout": 7200}
    assert app.amqp.queues["load"].queue_arguments == {"x-queue-type": "quorum"}
    assert app.amqp.queues["another"].queue_arguments is None


def test_the_configured_broker_is_used_whatever_celery_reads_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, valkey_url: str
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://127.0.0.1:9")
    app = create_app(BrokerSettings(url=valkey_url))

    assert kind_of(app) == "redis"
    connect(app).release()


def test_a_broker_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="filesystem is not supported: use RabbitMQ"):
        kind_of(create_app(BrokerSettings(url="filesystem://")))


def test_a_url_that_the_transport_can_not_read_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"broker\.url must name the database by its number"):
        connect(create_app(BrokerSettings(url="redis://127.0.0.1:9/nonsense")))


def test_the_second_of_several_brokers_is_used_when_the_first_is_away(
    valkey_url: str, proxy: Callable[..., Proxy]
) -> None:
    second = proxy(valkey_url).url
    connect(create_app(BrokerSettings(url=f"redis://127.0.0.1:9;{second}"))).release()

    with pytest.raises(BrokerUnavailable, match="refused"):
        connect(create_app(BrokerSettings(url="redis://127.0.0.1:9;redis://127.0.0.1:10")))


def test_options_of_tls_take_the_form_that_the_transport_wants() -> None:
    given = {"ca_certs": "/ca.pem", "certfile": "/c.pem", "keyfile": "/k.pem"}

    assert tls(BrokerSettings(url="amqps://broker", ssl=given)) == given | {
        "cert_reqs": ssl.CERT_REQUIRED,
        "server_hostname": None,  # kombu puts in the name of the URL
    }
    assert tls(BrokerSettings(url="amqps://broker", ssl={"cert_reqs": "none"})) == {"cert_reqs": ssl.CERT_NONE}
    assert tls(BrokerSettings(url="rediss://broker", ssl=given | {"cert_reqs": "optional"})) == {
        "ssl_ca_certs": "/ca.pem",
        "ssl_certfile": "/c.pem",
        "ssl_keyfile": "/k.pem",
        "ssl_cert_reqs": ssl.CERT_OPTIONAL,
        "ssl_check_hostname": False,
    }
    assert tls(BrokerSettings(url="amqp://broker")) is None
    with pytest.raises(ConfigurationError, match="cert_reqs must be one of required, optional, none, not 'maybe'"):
        tls(BrokerSettings(url="amqps://broker", ssl={"cert_reqs": "maybe"}))
