"""The pages of a program, asked by clients that are slow, hostile, many, or sent by a page in somebody's browser."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from swh_sched_runner.config import load
from swh_sched_runner.db.engine import Database, create_engine
from swh_sched_runner.exc import ConfigurationError
from swh_sched_runner.services.instruments import Instruments
from swh_sched_runner.web import metrics
from swh_sched_runner.web.server import MOST_ANSWERS, MOST_CLIENTS, Page, Server
from tests.support.processes.programs import Programs, terminate
from tests.support.servers.rabbitmq import free_ports
from tests.support.wait import until

pytestmark = pytest.mark.slow

UNKNOWN_HOST = "request with an unknown Host refused"
WITHOUT_DATABASE = "metrics of the database are missing"
LARGE = b"a" * 30_000_000
# Who waits for the place of a silent client waits 10 s.
AT_ONCE_SECONDS = 7


@pytest.fixture
def hold() -> Iterator[threading.Event]:
    """While it is not set, ``/slow`` is not answered."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def server(hold: threading.Event, tmp_path: Path) -> Iterator[Server]:
    """A server as of a program whose database is away, and pages that are slow or large."""
    database = Database(create_engine(f"postgresql:///db?host={tmp_path}"))

    def slow(_: Message) -> Page:
        hold.wait(60)
        return Page(b"at last")

    pages = {
        "/healthz": lambda _: Page(b"alive"),
        "/metrics": metrics.page(Instruments().registry, database),
        "/slow": slow,
        "/large": lambda _: Page(LARGE),
    }
    with Server("127.0.0.1", 0, pages, ["scheduler", ".fleet.example.org"]) as server:
        yield server


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """What was logged above debug."""
    with capture_logs() as events:
        yield events


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server, hold: threading.Event, told: list[Any]) -> Iterator[None]:
    """After each test: no client and no thread more than before; in the log at most that a host is not known, once."""
    until(lambda: not any(thread.name == "web name" for thread in threading.enumerate()), 30)
    before = threading.active_count()
    yield
    hold.set()
    for client in list(server._clients.values()):
        client.until = 0
    until(lambda: not server._clients, what="no client is left")
    until(lambda: threading.active_count() <= before, what="no thread is left")
    loud = [event["event"] for event in told if event["log_level"] not in ("debug", "info")]
    assert [text for text in loud if text not in (UNKNOWN_HOST, WITHOUT_DATABASE)] == []
    assert loud.count(UNKNOWN_HOST) <= 1


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.server_address, timeout=20)


def raw(server: Server, request: bytes) -> bytes:
    """What is answered to these bytes, up to the end of the connection, however it ends."""
    said = b""
    with connect(server) as client, suppress(ConnectionError):
        client.sendall(request)
        while content := client.recv(65_536):
            said += content
    return said


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.0 "), answer[:100]
    return int(answer[9:12])


def alive(server: Server) -> float:
    """Seconds until ``/healthz`` answered."""
    began = time.monotonic()
    assert raw(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").endswith(b"\r\n\r\nalive")
    return time.monotonic() - began


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=junk",
        "application/openmetrics-text; version=1.0.0.0.0.0",
        "application/openmetrics-text; version=" + "9" * 6000,
        "application/openmetrics-text; version=1.0.0é",
        "application/openmetrics-text; version=2.0.0\r\n folded: yes",
        "text/plain; version=x; escaping=y",
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        ";;;,,,===",
        "image/png",
        "\xff\xfe",
        "a" * 7000,
        "application/openmetrics-text;version=1.0.0;" + "escaping=x;" * 500,
    ],
    ids=lambda text: text[:45],
)
def test_metrics_are_answered_whatever_is_accepted(server: Server, accept: str) -> None:
    request = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode("latin-1")

    head, _, body = raw(server, request).partition(b"\r\n\r\n")

    assert status_of(head) in (200, 406)
    if b"\r\nContent-Type: text/plain" in head:
        assert list(text_string_to_metric_families(body.decode()))
    else:
        assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("encoding", ["gzip", "gzip;q=0", ",,gzip", "x" * 5000, "\xff"])
def test_metrics_are_answered_whatever_encoding_is_accepted(server: Server, encoding: str) -> None:
    request = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {encoding}\r\n\r\n".encode("latin-1")

    head, _, body = raw(server, request).partition(b"\r\n\r\n")

    assert status_of(head) == 200
    plain = gzip.decompress(body) if b"Content-Encoding: gzip" in head else body
    assert b"swh_sched_runner_database_up 0.0" in plain


HOSTS = [
    ("localhost", 200), ("LOCALHOST:9461", 200), ("localhost.", 200), ("x.localhost", 200), ("127.0.0.1", 200),
    ("127.0.0.1:1", 200), ("10.1.2.3:9461", 200), ("[::1]", 200), ("[::1]:80", 200), ("[fe80::1%eth0]", 200),
    (socket.gethostname(), 200), ("scheduler", 200), ("Scheduler:9461", 200), ("a.fleet.example.org", 200),
    ("evil.example.com", 421), ("evil.example.com:9461", 421), ("localhost.evil.example.com", 421),
    ("xlocalhost", 421), ("127.0.0.1.evil.example.com", 421), ("fleet.example.org", 421), ("scheduler2", 421),
    ("evilfleet.example.org", 421), ("0x7f000001.evil", 421), ("[::1", 400), ("localhost:x", 400), ("a b", 400),
    ("u@localhost", 400), ("", 400), ("localhost, evil", 400), ("localhost/evil", 400), ("\xff", 400),
    ("localhost\r\nHost: evil", 400), ("a" * 5000, 421),
]  # fmt: skip


@pytest.mark.parametrize(("host", "status"), HOSTS, ids=lambda value: str(value)[:40])
def test_only_a_host_that_is_known_is_answered_to(server: Server, host: str, status: int) -> None:
    answer = raw(server, f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))

    assert status_of(answer) == status
    if status == 421:
        assert b"web.allowed_hosts" in answer
    assert (b"alive" in answer) == (status == 200)


def test_a_request_without_a_host_is_answered_to_old_clients_alone(server: Server) -> None:
    assert status_of(raw(server, b"GET /healthz HTTP/1.1\r\n\r\n")) == 400
    assert status_of(raw(server, b"GET /healthz HTTP/1.0\r\n\r\n")) == 200


def test_a_host_that_is_not_known_is_told_once(server: Server, told: list[Any]) -> None:
    for name in ("a.example.com", "b.example.com"):
        raw(server, f"GET /healthz HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())

    [event] = [event for event in told if event["log_level"] == "warning"]
    assert event["event"] == UNKNOWN_HOST
    assert (event["host"], event["option"]) == ("a.example.com", "web.allowed_hosts")


def test_any_host_is_answered_to_where_that_is_said() -> None:
    with Server("127.0.0.1", 0, {"/": lambda _: Page(b"here")}, ["*"]) as server:
        assert status_of(raw(server, b"GET / HTTP/1.1\r\nHost: anything.example.com\r\n\r\n")) == 200


def test_the_name_that_is_listened_on_is_answered_to(server: Server) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: 127.1:80\r\n\r\n"  # a name that needs no name server

    assert status_of(raw(server, request)) == 421
    with Server("127.1", 0, {"/healthz": lambda _: Page(b"here")}) as another:
        assert status_of(raw(another, request)) == 200


@pytest.mark.parametrize("names", [["a b"], ["a:9461"], [""], ["http://a"], ["a", "*.b"], ["é"]], ids=str)
def test_what_is_no_name_of_a_host_is_refused(names: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"web\.allowed_hosts must be host names"):
        load(Path("/dev/null"), {}, {"web.allowed_hosts": names})


REQUESTS = [
    (b"\r\n\r\n", 400), (b"GET\r\n\r\n", 400), (b"GET /healthz\r\n\r\n", 400), (b"\0\0\0\0\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400), (b"GET /healthz HTTP/2.0\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505), (b"GET /healthz HTTP/1.1 x\r\n\r\n", 400),
    (b"GET  /healthz HTTP/1.1\r\n\r\n", 400), (b"G" * 40 + b" /healthz HTTP/1.1\r\n\r\n", 400),
    (b"GET /\xff HTTP/1.1\r\n\r\n", 400), (b"GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414), (b"a" * 100_000, 414),
    (b"GET /healthz HTTP/1.1\r\n" + b"A: a\r\n" * 200 + b"\r\n", 431),
    (b"GET /healthz HTTP/1.1\r\n" + b"A: a\r\n" * 100_000, 431),
    (b"GET /healthz HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    (b"GET /healthz HTTP/1.1\r\nno colon here\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999999999999\r\n\r\nx", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000, 200),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"x" * 5_000_000, 200),
    (b"GET /healthz HTTP/1.1\nHost: localhost\n\n", 200),
    (b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000, 405),
    (b"CONNECT evil:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"get /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET http://evil/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "status"), REQUESTS, ids=lambda value: repr(value)[:45])
def test_every_request_has_one_answer_and_the_next_client_another(server: Server, request_: bytes, status: int) -> None:
    answer = raw(server, request_)

    assert status_of(answer) == status
    assert answer.count(b"HTTP/1.0 ") == 1
    assert b"Traceback" not in answer
    alive(server)


def test_health_is_answered_at_once_while_clients_connect_and_say_nothing(server: Server) -> None:
    with ExitStack() as stack:
        for number in range(2 * MOST_CLIENTS):
            stack.enter_context(connect(server))
            if number % 50 == 0:
                assert alive(server) < AT_ONCE_SECONDS
        assert alive(server) < AT_ONCE_SECONDS
        assert len(server._clients) <= MOST_CLIENTS


def test_health_is_answered_at_once_while_clients_trickle_their_requests(server: Server) -> None:
    with ExitStack() as stack:
        trickling = [stack.enter_context(connect(server)) for _ in range(200)]
        for byte in b"GET /healthz HTTP/1.1\r\nX: ":
            for client in trickling:
                with suppress(OSError):  # those who came first are cut off
                    client.send(bytes([byte]))
            assert alive(server) < AT_ONCE_SECONDS


def test_health_is_answered_at_once_while_clients_do_not_read_their_answers(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(connect(server))
            client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(1)
        assert alive(server) < AT_ONCE_SECONDS
        # and their place is another's once their time is over
        for waiting in list(server._clients.values()):
            waiting.until = 0
        until(lambda: not server._clients)


def test_health_is_answered_at_once_while_other_pages_hang(server: Server, hold: threading.Event) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(MOST_ANSWERS + 5)]
        for client in slow:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # then some wait for their answers, the others are turned away, and that costs no thread
        turned_away = [client.recv(100)[:12] for client in slow[MOST_ANSWERS:]]
        assert turned_away == [b"HTTP/1.0 503"] * 5
        assert alive(server) < AT_ONCE_SECONDS
        hold.set()
        assert [client.makefile("rb").read()[-7:] for client in slow[:MOST_ANSWERS]] == [b"at last"] * MOST_ANSWERS


def test_a_client_that_goes_away_is_no_news(server: Server) -> None:
    for request in (b"", b"GET /healthz", b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        for _ in range(20):
            client = connect(server)
            client.sendall(request)
            # An end without a goodbye, as of a process that was killed: the server is told by a reset.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
    alive(server)


def test_requests_cost_no_thread_for_ever(server: Server) -> None:
    before = threading.active_count()

    for _ in range(300):
        alive(server)

    until(lambda: threading.active_count() <= before)


def test_a_program_answers_its_probes_while_it_is_flooded(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    # given
    [port] = free_ports(1)
    programs = Programs(
        tmp_path, {"SWH_SCHED_RUNNER_DATABASE__URL": database_url, "SWH_SCHED_RUNNER_BROKER__URL": valkey_url}
    )
    listener = programs.start("listen", "--web-port", str(port))
    until(lambda: "event=ready" in programs.log("listen"), 60)
    # when 200 clients say nothing or not enough
    with ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET /metrics HTTP/1.1\r\n" * (number % 2))
        began = time.monotonic()
        for path in ("/healthz", "/readyz", "/metrics"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=8) as answer:
                assert answer.status == 200
        # then
        assert time.monotonic() - began < 8
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Host": "evil.example.com"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=8)
        assert caught.value.code == 421
        assert terminate(listener) == 0
    assert "Traceback" not in programs.log("listen")
    assert "level=error" not in programs.log("listen")
    programs.close()


def test_a_head_that_comes_byte_by_byte_costs_no_more_than_its_length(server: Server) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 20_000 + b"\r\n\r\n"
    with connect(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.process_time()
        for byte in request:
            client.send(bytes([byte]))
        assert client.recv(100).startswith(b"HTTP/1.0 200")
    assert time.process_time() - began < 10
