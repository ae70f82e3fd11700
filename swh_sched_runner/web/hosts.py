"""By which names clients may ask: a page in somebody's browser can point a name of its own to our address."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from http import HTTPStatus

from swh_sched_runner.web.request import Refused, Request, plain

ANY = "*"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%A-Za-z]+\]|[A-Za-z0-9_.\-]+)(?::[0-9]{0,5})?")


class Hosts:
    """The names that are answered to: addresses, localhost, the host's own, and those of ``allowed``.

    One of those that begins with a dot allows all that end so; ``*`` allows any.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        names = {name.lower().rstrip(".") for name in (*allowed, "localhost", ".localhost", socket.gethostname())}
        self._names = names
        self._ends = tuple(name for name in names if name.startswith("."))

    def check(self, request: Request) -> None:
        """Raises ``Refused`` unless the request's ``Host`` is one of them."""
        given = request.headers.get_all("Host", [])
        if not given and not request.needs_host:  # HTTP/1.0; no browser asks like that
            return
        found = _HOST.fullmatch(given[0].strip()) if len(given) == 1 else None
        if found is None:
            raise Refused(plain(HTTPStatus.BAD_REQUEST, "Bad Request: one Host is wanted"))
        if not self._allows(found[1].lower().rstrip(".")):
            text = "Misdirected Request: this Host is not answered to (configuration, web.allowed_hosts)"
            raise Refused(plain(HTTPStatus.MISDIRECTED_REQUEST, text))

    def _allows(self, name: str) -> bool:
        return ANY in self._names or name in self._names or name.endswith(self._ends) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
