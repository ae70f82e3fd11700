"""The HTTP server: a few pages for machines, and no harm from any client."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from email.message import Message
from http import HTTPStatus

import pytest

from swh_sched_runner.web import server as module
from swh_sched_runner.web.server import MOST_CLIENTS, Page, Server
from tests.support.sources import CHECKOUT
from tests.support.wait import until


def hello(headers: Message) -> Page:
    return Page(f"hello {headers.get('X-Name', 'you')}\n".encode())


def teapot(_: Message) -> Page:
    return Page(b"{}", "application/json", HTTPStatus.SERVICE_UNAVAILABLE, {"X-More": "1"})


def fault(_: Message) -> Page:
    raise RuntimeError("a fault of ours")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("127.0.0.1", 0, {"/hello": hello, "/teapot": teapot, "/fault": fault}) as server:
        yield server


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.server_address[:2], timeout=20)  # type: ignore[arg-type]


def raw(server: Server, request: bytes) -> bytes:
    """What is answered to these bytes, up to the end of the connection."""
    with connect(server) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def ask(server: Server, method: str, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), int(port), timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_a_page_is_answered_with_its_status_type_length_and_headers(server: Server) -> None:
    status, headers, body = ask(server, "GET", "/hello?a=1", **{"X-Name": "Prometheus"})
    other, other_headers, _ = ask(server, "GET", "/teapot")

    assert (status, headers["Content-Type"], body) == (200, "text/plain; charset=utf-8", b"hello Prometheus\n")
    assert headers["Content-Length"] == "17"
    assert headers["Cache-Control"] == "no-store"
    assert (other, other_headers["Content-Type"], other_headers["X-More"]) == (503, "application/json", "1")


def test_head_has_the_headers_of_get_and_no_body(server: Server) -> None:
    answer = raw(server, b"HEAD /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"Content-Length: 10\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/", "/hello/", "/nothing", "//hello/../etc/passwd", "*", "http://127.0.0.1/hello"])
def test_another_path_is_404_and_says_which_are_known(server: Server, path: str) -> None:
    status, _, body = ask(server, "GET", path)

    assert (status, body) == (404, b"Not Found. Known: /hello /teapot /fault\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "MADEUP"])
def test_another_method_is_405_and_says_which_are_known(server: Server, method: str) -> None:
    status, headers, _ = ask(server, method, "/hello")

    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"400"),  # the beginning of TLS
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET /hello HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET /hello HTTP/1.1\r\n" + b"A: a\r\n" * 200 + b"\r\n", b"431"),
    ],
    ids=["no HTTP", "unknown version", "long path", "long header", "many headers"],
)
def test_what_is_no_request_is_refused_and_the_next_one_answered(
    server: Server, request_: bytes, status: bytes
) -> None:
    with connect(server) as client:
        client.sendall(request_)
        said = client.recv(200)

    assert status in said or said == b""  # some are refused before they have a version to be answered in
    assert ask(server, "GET", "/hello")[0] == 200


def test_a_fault_of_a_page_is_500_and_says_nothing_of_it(server: Server) -> None:
    status, _, body = ask(server, "GET", "/fault")

    assert (status, body) == (500, b"Internal Server Error\n")
    assert ask(server, "GET", "/hello")[0] == 200


def test_clients_that_say_nothing_are_few_and_are_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # given many who connect and say nothing, and whose time is not over
    monkeypatch.setattr(module, "CLIENT_SECONDS", 600.0)
    until(lambda: not server._clients)
    threads = threading.active_count()
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(server)) for _ in range(MOST_CLIENTS + 20)]
        first, last = silent[:20], silent[20:]
        # then those who have waited longest are cut off, and the process has no thread for any
        assert [client.recv(100)[:12] for client in first] == [b"HTTP/1.0 503"] * len(first)
        assert threading.active_count() <= threads
        # and when their time is over, the others are cut off
        addresses = {client.getsockname() for client in last}
        until(lambda: {client.address for client in list(server._clients.values())} == addresses)
        for client in list(server._clients.values()):
            client.until = 0
        assert [client.recv(100) for client in last] == [b""] * len(last)
        assert ask(server, "GET", "/hello")[0] == 200


def test_a_client_that_trickles_its_request_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_SECONDS", 0.3)

    def trickle() -> bool:
        try:
            client.send(b"X: a\r\n"[:1])
        except OSError:
            return True
        return False

    with connect(server) as client:
        client.sendall(b"GET /hello HTTP/1.1\r\n")
        until(trickle, 30)


def test_a_client_that_does_not_read_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_SECONDS", 0.3)
    big = Page(b"a" * 50_000_000)
    with Server("127.0.0.1", 0, {"/": lambda _: big}) as server, connect(server) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.recv(1)
        until(lambda: not server._clients, 30, what="the client is cut off")


def test_a_page_that_hangs_does_not_keep_the_program_from_ending() -> None:
    program = """
import threading, urllib.request
from swh_sched_runner.web.server import Server

entered = threading.Event()

def hang(_):
    entered.set()
    threading.Event().wait()

with Server("127.0.0.1", 0, {"/": hang}) as server:
    threading.Thread(target=urllib.request.urlopen, args=(server.url,), daemon=True).start()
    entered.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, timeout=30, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_an_address_can_be_had_again_at_once_and_by_one_alone() -> None:
    with Server("127.0.0.1", 0, {"/hello": hello}) as first:
        port = int(first.server_address[1])
        assert ask(first, "GET", "/hello")[0] == 200
        with pytest.raises(OSError, match="in use"):
            Server("127.0.0.1", port, {})
    with Server("127.0.0.1", port, {"/hello": hello}) as second:
        assert ask(second, "GET", "/hello")[0] == 200


def test_the_url_of_an_address_of_version_6_has_brackets() -> None:
    try:
        server = Server("::1", 0, {"/hello": hello})
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server:
        assert server.url == f"http://[::1]:{server.server_address[1]}"
        assert ask(server, "GET", "/hello")[0] == 200
