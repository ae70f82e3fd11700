"""A small HTTP server for pages that machines read. No client, slow or hostile, can hang or exhaust the process.

One thread talks to all clients and waits for none of them; pages are made in others, a few for each path, so that a
page that is slow keeps no other one from being answered.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from queue import SimpleQueue
from typing import Any, Self

import structlog

from swh_sched_runner.web.hosts import Hosts
from swh_sched_runner.web.request import Page, Pages, Refused, Request, head_of, plain, response

__all__ = ["MOST_ANSWERS", "MOST_CLIENTS", "Page", "Pages", "Server"]

# When more connect, whoever has waited longest without a complete request is disconnected.
MOST_CLIENTS = 128
# For each path. Prometheus and a health check or two ask at a time.
MOST_ANSWERS = 4
# For all of it: asking, answering, reading the answer. Prometheus gives up after 10 s.
CLIENT_SECONDS = 10.0
# A client that still sends what nobody reads would lose the answer by the end of the connection.
LINGER_SECONDS = 1.0
POLL_SECONDS = 0.2
RECEIVE_BYTES = 65_536

log = structlog.get_logger(__name__)


class _Client:
    """A connection, and how far it is: its request, the thread that makes its page, or the rest of the answer."""

    def __init__(self, sock: socket.socket, address: Any) -> None:
        self.sock = sock
        self.address = address
        self.received = bytearray()
        self.answering = False
        self.answer: memoryview | None = None
        self.lingering = False
        self.until = time.monotonic() + CLIENT_SECONDS


class Server:
    """Answers GET and HEAD for the paths of ``pages`` while entered, in threads that the program does not wait for."""

    def __init__(self, host: str, port: int, pages: Pages, allowed_hosts: Iterable[str] = ()) -> None:
        """Listens. Raises ``OSError`` where the address can't be had; port 0 is any that is free.

        ``allowed_hosts`` are names that clients may know this host by, beside ``host`` and its own.
        """
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.pages = pages
        self._hosts = Hosts([host, *allowed_hosts])
        self._clients: dict[socket.socket, _Client] = {}  # in the order in which they came
        self._answers: SimpleQueue[tuple[_Client, bytes]] = SimpleQueue()
        self._answering = dict.fromkeys(pages, 0)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(address)
            self._listener.listen(MOST_CLIENTS)
        except BaseException:
            self._close()
            raise
        for sock in (self._listener, self._woken, self._waker):
            sock.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, self._take_answers)
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)

    @property
    def server_address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self.server_address
        name = f"[{host}]" if self._listener.family == socket.AF_INET6 else host
        return f"http://{name}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        threading.Thread(target=self._hosts.learn_own, name="web name", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._wake()
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for client in list(self._clients.values()):
            self._end(client)
        for sock in (self._listener, self._woken, self._waker):
            sock.close()
        self._selector.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(POLL_SECONDS):
                try:
                    key.data()
                except OSError:
                    log.debug("client disconnected")
                    self._end_of(key.fileobj)
                except Exception as error:  # a fault of ours must not end it for all the others
                    log.error("request failed", exc_info=error)
                    self._end_of(key.fileobj)
            now = time.monotonic()
            for client in [client for client in self._clients.values() if client.until <= now]:
                self._end(client)

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._make_room()
                self._stop.wait(POLL_SECONDS)  # it would be ready to be accepted again at once
            return
        while len(self._clients) >= MOST_CLIENTS and self._make_room():
            pass
        sock.setblocking(False)
        client = self._clients[sock] = _Client(sock, address)
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._read(client))

    def _make_room(self) -> bool:
        """End the client that has been at it longest and whose page is not being made; False where there is none."""
        waiting = [client for client in self._clients.values() if not client.answering]
        for client in sorted(waiting, key=lambda client: not client.lingering):
            with suppress(OSError):
                if client.answer is None:
                    client.sock.send(response(plain(HTTPStatus.SERVICE_UNAVAILABLE)))
            self._end(client)
            return True
        return False

    def _read(self, client: _Client) -> None:
        content = client.sock.recv(RECEIVE_BYTES)
        if client.lingering:
            if not content:
                self._end(client)
            return
        if not content:  # half of a connection can still be answered, nothing of a request can't
            self._end(client)
            return
        before = len(client.received)
        client.received += content
        try:
            head = head_of(client.received, before)
            if head is not None:
                self._ask(client, Request.parse(head))
        except Refused as refused:
            self._begin_answer(client, response(refused.page))

    def _ask(self, client: _Client, request: Request) -> None:
        self._hosts.check(request)
        read = self.pages.get(request.path)
        if read is None:
            known = " ".join(self.pages)
            raise Refused(plain(HTTPStatus.NOT_FOUND, f"{HTTPStatus.NOT_FOUND.phrase}. Known: {known}"))
        if request.method not in ("GET", "HEAD"):
            raise Refused(plain(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD"))
        with self._lock:
            if self._answering[request.path] >= MOST_ANSWERS:
                raise Refused(plain(HTTPStatus.SERVICE_UNAVAILABLE))
            self._answering[request.path] += 1
        client.answering = True
        self._selector.unregister(client.sock)
        threading.Thread(target=self._make, args=(client, request), name="web page", daemon=True).start()

    def _make(self, client: _Client, request: Request) -> None:
        try:
            page = self.pages[request.path](request.headers)
        except Exception as error:  # a fault of ours: for the log, not for whoever asks
            log.error("page failed", path=request.path, exc_info=error)
            page = plain(HTTPStatus.INTERNAL_SERVER_ERROR)
        with self._lock:
            self._answering[request.path] -= 1
        log.debug("request", client=client.address[0], path=request.path, status=int(page.status))
        self._answers.put((client, response(page, with_body=request.method != "HEAD")))
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # there is something in it already, or the server has ended
            self._waker.send(b"x")

    def _take_answers(self) -> None:
        self._woken.recv(RECEIVE_BYTES)
        while not self._answers.empty():
            client, content = self._answers.get()
            client.answering = False
            if client.sock in self._clients:
                self._selector.register(client.sock, selectors.EVENT_WRITE, None)
                self._begin_answer(client, content)

    def _begin_answer(self, client: _Client, content: bytes) -> None:
        client.answer = memoryview(content)
        self._selector.modify(client.sock, selectors.EVENT_WRITE, lambda: self._write(client))

    def _write(self, client: _Client) -> None:
        assert client.answer is not None
        client.answer = client.answer[client.sock.send(client.answer) :]
        if not client.answer:
            client.lingering = True
            client.until = min(client.until, time.monotonic() + LINGER_SECONDS)
            client.sock.shutdown(socket.SHUT_WR)
            self._selector.modify(client.sock, selectors.EVENT_READ, lambda: self._read(client))

    def _end_of(self, sock: Any) -> None:
        if (client := self._clients.get(sock)) is not None:
            self._end(client)

    def _end(self, client: _Client) -> None:
        self._clients.pop(client.sock, None)
        with suppress(KeyError, ValueError):  # not registered while its page is made
            self._selector.unregister(client.sock)
        client.sock.close()
