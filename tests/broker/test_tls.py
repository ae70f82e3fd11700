"""TLS to the broker, through a proxy that speaks it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from swh_sched_runner.broker.amqp.event_queue import queue_name
from swh_sched_runner.broker.celery.app import connect, create_app
from swh_sched_runner.broker.factory import open_consumer, open_publisher
from swh_sched_runner.config.settings import BrokerSettings
from swh_sched_runner.exc import BrokerUnavailable
from tests.broker.conftest import check_session, lock, messages, send_all
from tests.conftest import skip_or_fail
from tests.support.servers import rabbitmq
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQ
from tests.support.wait import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
]


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Makes a certificate that signs itself, for a name (DNS:… or IP:…)."""

    def make(name: str) -> tuple[Path, Path]:
        certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-subj", "/CN=test", "-addext", f"subjectAltName={name}"]
        command += ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        return certificate, key

    return make


@pytest.fixture
def tls_broker(
    request: pytest.FixtureRequest, proxy: Callable[..., Proxy], certificate: Callable[[str], tuple[Path, Path]]
) -> Callable[[str, str], tuple[str, Path]]:
    """The URL of a broker behind TLS, and the certificate to trust."""

    def start(broker: str, name: str) -> tuple[str, Path]:
        trusted, key = certificate(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(trusted, key)
        url = proxy(request.getfixturevalue(broker), context).url
        return url.replace("amqp://", "amqps://").replace("redis://", "rediss://"), trusted

    return start


TlsBroker = Callable[[str, str], tuple[str, Path]]
BROKERS = pytest.mark.parametrize("broker", ["rabbitmq_url", "valkey_url"])


@BROKERS
def test_messages_and_events_go_over_tls(tls_broker: TlsBroker, broker: str, queue: str) -> None:
    url, trusted = tls_broker(broker, "IP:127.0.0.1")
    settings = BrokerSettings(url=url, ssl={"ca_certs": str(trusted), "cert_reqs": "required"})
    app = create_app(settings)
    consumer = open_consumer(app, settings, 1000)
    publisher = open_publisher(app, settings, 1)

    with lock(publisher, queue, 5000) as locked:
        assert locked is not None
        assert locked.capacity() == 5000
        assert len(send_all(locked, messages(3000), check_session)) == 3000
        assert locked.capacity() == 2000
    with app.events.default_dispatcher(hostname="w@h") as dispatcher:
        for number in range(300):
            dispatcher.send("task-started", uuid=str(number))
    assert len(consumer.receive(300, 20)) == 300

    publisher.check()
    publisher.close()
    consumer.close()


@BROKERS
def test_a_certificate_for_another_name_is_refused(tls_broker: TlsBroker, broker: str) -> None:
    url, trusted = tls_broker(broker, "DNS:elsewhere.example.org")
    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        connect(create_app(BrokerSettings(url=url, ssl={"ca_certs": str(trusted)})))


@BROKERS
def test_a_certificate_that_nobody_vouches_for_is_refused(tls_broker: TlsBroker, broker: str) -> None:
    url, _ = tls_broker(broker, "IP:127.0.0.1")
    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        connect(create_app(BrokerSettings(url=url, ssl={"cert_reqs": "required"})))


def test_large_and_many_events_come_from_a_broker_that_speaks_tls(
    tmp_path: Path, certificate: Callable[[str], tuple[Path, Path]]
) -> None:
    # given a node with a listener for TLS
    if reason := rabbitmq.missing():
        skip_or_fail(reason)
    trusted, key = certificate("IP:127.0.0.1")
    [port] = rabbitmq.free_ports(1)
    options = f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.certfile = {trusted}\nssl_options.keyfile = {key}\n"
    server = RabbitMQ(tmp_path / "rabbitmq", options)
    try:
        server.start()
        plain = BrokerSettings(url=server.url())
        settings = BrokerSettings(
            url=f"amqps://guest:guest@127.0.0.1:{port}//", ssl={"ca_certs": str(trusted), "cert_reqs": "required"}
        )
        consumer = open_consumer(create_app(settings), settings, 10_000)
        bodies = [b"%06d" % n + b"x" * (900_000 if n % 500 == 0 else 200) for n in range(2_000)]
        # when
        with connect(create_app(plain)) as connection:
            channel = connection.default_channel
            for body in bodies:
                channel.basic_publish(channel.prepare_message(body), exchange="", routing_key=queue_name(plain))
        # then
        received: list[bytes] = []
        until(lambda: received.extend(each.body for each in consumer.receive(500, 0.2)) or len(received) == 2_000, 40)
        assert received == bodies
        consumer.close()
    finally:
        server.stop()
