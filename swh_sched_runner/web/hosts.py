"""By which names clients may ask: a page in somebody's browser can point a name of its own to our address."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus

import structlog

from swh_sched_runner.web.request import Refused, Request, plain

ANY = "*"
OPTION = "web.allowed_hosts"
LONGEST_NAME = 253
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%A-Za-z]+\]|[A-Za-z0-9_.\-]+)(?::[0-9]{0,5})?")

log = structlog.get_logger(__name__)


class Hosts:
    """The names that are allowed: addresses, localhost, the host's own, and those of ``allowed``.

    One of those that begins with a dot allows all that end so; ``*`` allows any.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._names = {_plain(name) for name in (*allowed, "localhost", ".localhost", socket.gethostname())}
        self._ends = tuple(name for name in self._names if name.startswith("."))
        self._told = False

    def learn_own(self) -> None:
        """Ask the system for this host's full name, which may take as long as a name server does."""
        with suppress(OSError, UnicodeError):
            self._names.add(_plain(socket.getfqdn()))

    def check(self, request: Request) -> None:
        """Raises ``Refused`` unless the request's ``Host`` is one of them."""
        given = request.headers.get_all("Host", [])
        if not given and not request.needs_host:  # HTTP/1.0; no browser asks like that
            return
        found = _HOST.fullmatch(given[0].strip()) if len(given) == 1 else None
        if found is None:
            raise Refused(plain(HTTPStatus.BAD_REQUEST, "Bad Request: exactly one Host is required"))
        if not self._allows(_plain(found[1])):
            if not self._told:  # once: Prometheus comes again and again
                log.warning("request with an unknown Host refused", host=found[1][:LONGEST_NAME], option=OPTION)
                self._told = True
            text = f"Misdirected Request: this Host is not allowed (configuration, {OPTION})"
            raise Refused(plain(HTTPStatus.MISDIRECTED_REQUEST, text))

    def _allows(self, name: str) -> bool:
        return ANY in self._names or name in self._names or name.endswith(self._ends) or _is_address(name)


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
