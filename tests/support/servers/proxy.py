"""A proxy before a broker that can fall silent: a network that stops forwarding, an answer that gets lost."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
from urllib.parse import urlsplit

SIZE = 65_536


class Proxy:
    """Forwards connections on ``port`` to the broker of ``url``; ``url`` leads through it, ``tls`` is for clients."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        parts = urlsplit(url)
        self._upstream: str | tuple[str, int]
        if parts.scheme.endswith("socket"):
            self._upstream = parts.path
        else:
            self._upstream = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        user, at, _ = parts.netloc.rpartition("@")
        scheme = parts.scheme.split("+")[0]
        path = "" if parts.scheme.endswith("socket") else parts.path
        self.url = f"{scheme}://{user}{at}127.0.0.1:{self.port}{path}"
        self._sockets: list[socket.socket] = []
        self._muted = threading.Event()
        self._drop = threading.Event()
        # Connections with a lower number are silent.
        self._accepted = 0
        self._silent: float = 0
        self._unanswered: float = 0
        self._withheld: bytes | None = None
        self.lost = 0  # how often somebody said something that was not forwarded
        threading.Thread(target=self._accept, daemon=True).start()

    def mute_answers(self) -> None:
        """Forward nothing of what the broker says any more; it hears everything."""
        self._muted.set()

    def drop_at_next_answer(self) -> None:
        """Cut a connection when the broker next says something on it, and swallow that."""
        self._drop.set()

    def silence(self, *, only_answers: bool = False, new_ones: bool = False) -> None:
        """Lose all, or all answers, of the connections that there are: each side believes that the other one lives.

        New ones are forwarded, unless they are to be as silent, until ``speak``.
        """
        self._unanswered = math.inf if new_ones else self._accepted
        if not only_answers:
            self._silent = self._unanswered

    def speak(self) -> None:
        """Forward new connections again; those that are silent stay so."""
        self.silence()

    def withhold(self, word: bytes) -> None:
        """Lose whatever of the clients has this word in it."""
        self._withheld = word

    @property
    def accepted(self) -> int:
        """How many connections were forwarded so far."""
        return self._accepted

    def stop(self) -> None:
        """Cut all connections, take no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut the connections that there are."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets = []

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._tls is not None:
                try:
                    client = self._tls.wrap_socket(client, server_side=True)
                except OSError:  # the client refused us
                    continue
            broker = socket.socket(socket.AF_UNIX if isinstance(self._upstream, str) else socket.AF_INET)
            try:
                broker.connect(self._upstream)
            except OSError:  # it is away: so is what leads to it
                client.close()
                broker.close()
                continue
            self._sockets += [client, broker]
            number, self._accepted = self._accepted, self._accepted + 1
            threading.Thread(target=self._forward, args=(client, broker, False, number), daemon=True).start()
            threading.Thread(target=self._forward, args=(broker, client, True, number), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(SIZE):
                if answers and self._drop.is_set():
                    self._drop.clear()
                    break
                refused = self._withheld is not None and not answers and self._withheld in data
                if refused or self._lost(answers, number):
                    self.lost += 1
                elif not (answers and self._muted.is_set()):
                    sink.sendall(self.answer(data) if answers else data)
        if self._lost(answers, number):
            return  # an end is lost as well
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def answer(self, data: bytes) -> bytes:
        """What is forwarded for what the server said."""
        return data

    def _lost(self, answers: bool, number: int) -> bool:
        return number < (self._unanswered if answers else self._silent)
