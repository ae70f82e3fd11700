"""A small HTTP server for pages that machines read. No client, slow or hostile, can hang or exhaust the process."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

import attrs
import structlog

# Prometheus and a health check or two ask at a time. Others are turned away until one is done.
MOST_CLIENTS = 8
# For all of it: asking, answering, reading the answer. Prometheus gives up after 10 s.
CLIENT_SECONDS = 10.0
POLL_SECONDS = 0.2
LONGEST_LINE = 8192
BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

log = structlog.get_logger(__name__)


@attrs.define(slots=True, frozen=True)
class Page:
    """An answer; ``headers`` beside its type and length."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = attrs.field(factory=dict)


# What a path answers, given the headers of the request.
Pages = Mapping[str, Callable[[Message], Page]]


class Server(socketserver.TCPServer):
    """Answers GET and HEAD for the paths of ``pages`` while entered, in threads that the program does not wait for."""

    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        """Listens. Raises ``OSError`` where the address can't be had; port 0 is any that is free."""
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        self.pages = pages
        self._clients: dict[socket.socket, float] = {}  # and when each began
        self._lock = threading.Lock()
        super().__init__(address, _Handler)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self.server_address[:2]
        name = f"[{host!s}]" if self.address_family == socket.AF_INET6 else host
        return f"http://{name!s}:{port!s}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client in a thread of its own, or turn it away."""
        with self._lock:
            full = len(self._clients) >= MOST_CLIENTS
            if not full:
                self._clients[request] = time.monotonic()
        if full:
            with suppress(OSError):
                request.send(BUSY, socket.MSG_DONTWAIT)
            self.shutdown_request(request)
        else:
            threading.Thread(
                target=self._answer, args=(request, client_address), name="web client", daemon=True
            ).start()

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            log.debug("client went away", client=client_address[0])
        except Exception as error:
            log.error("request not answered", client=client_address[0], exc_info=error)
        finally:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called every now and then."""
        self._cut_off(CLIENT_SECONDS)

    def _cut_off(self, older_than_seconds: float) -> None:
        """End connections that are older, also those that trickle: a limit for each read would not."""
        with self._lock:
            for client, began in self._clients.items():
                if time.monotonic() - began >= older_than_seconds:
                    with suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that could not be taken in."""
        log.warning("client not answered", client=client_address[0], exc_info=True)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(POLL_SECONDS,), name="web", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._cut_off(older_than_seconds=0)


class _Handler(BaseHTTPRequestHandler):
    """One request on one connection."""

    disable_nagle_algorithm = True
    server: Server
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def handle(self) -> None:
        self.close_connection = True
        self.command = self.requestline = ""
        self.request_version = self.default_request_version
        self.raw_requestline = self.rfile.readline(LONGEST_LINE + 1)
        if len(self.raw_requestline) > LONGEST_LINE:
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
        elif self.raw_requestline and self.parse_request():  # which answers what it can't parse
            self._reply()

    def _reply(self) -> None:
        read = self.server.pages.get(self.path.partition("?")[0])
        if read is None:
            page = _plain(HTTPStatus.NOT_FOUND, f"{HTTPStatus.NOT_FOUND.phrase}. Known: {' '.join(self.server.pages)}")
        elif self.command not in ("GET", "HEAD"):
            page = _plain(HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.METHOD_NOT_ALLOWED.phrase, Allow="GET, HEAD")
        else:
            page = self._read(read)
        self.send_response(page.status)
        headers = {
            "Content-Type": page.content_type,
            "Content-Length": str(len(page.body)),
            "Cache-Control": "no-store",
        }
        for name, value in (headers | dict(page.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def _read(self, read: Callable[[Message], Page]) -> Page:
        try:
            return read(self.headers)
        except Exception as error:  # a fault of ours: for the log, not for whoever asks
            log.error("page not made", path=self.path, exc_info=error)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.INTERNAL_SERVER_ERROR.phrase)

    def version_string(self) -> str:
        return "swh-sched-runner"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("asked", client=self.client_address[0], said=format % args)


def _plain(status: HTTPStatus, text: str, **headers: str) -> Page:
    return Page(f"{text}\n".encode(), status=status, headers=headers)
