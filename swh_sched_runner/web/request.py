"""Requests and answers of HTTP, as far as a few pages for machines need them."""

from __future__ import annotations

import http.client
import io
import re
from collections.abc import Callable, Mapping
from email.message import Message
from http import HTTPStatus
from typing import Self

import attrs

LONGEST_LINE = 8192
LONGEST_HEAD = 65_536
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")


@attrs.define(slots=True, frozen=True)
class Page:
    """An answer; ``headers`` beside its type and length."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = attrs.field(factory=dict)


# What a path answers, given the headers of the request.
Pages = Mapping[str, Callable[[Message], Page]]


class Refused(Exception):  # never leaves this package
    """A request that gets ``page`` for an answer."""

    def __init__(self, page: Page) -> None:
        super().__init__(page.status)
        self.page = page


@attrs.define(slots=True, frozen=True)
class Request:
    """A request without its body, which is not read."""

    method: str
    path: str
    headers: Message
    needs_host: bool

    @classmethod
    def parse(cls, head: bytes) -> Self:
        """The request of a head; raises ``Refused``."""
        line, _, rest = head.partition(b"\n")
        found = _REQUEST_LINE.fullmatch(line.rstrip(b"\r").decode("latin-1"))
        if found is None:
            raise Refused(plain(HTTPStatus.BAD_REQUEST))
        method, target, major, minor = found.groups()
        if major != "1":
            raise Refused(plain(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED))
        try:
            headers = http.client.parse_headers(io.BytesIO(rest))
        except http.client.HTTPException:  # too many, or one too long
            raise Refused(plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)) from None
        if headers.defects:
            raise Refused(plain(HTTPStatus.BAD_REQUEST))
        return cls(method, target.partition("?")[0], headers, needs_host=minor != "0")


def head_of(received: bytearray, before: int) -> bytes | None:
    """The head of a request once it is whole, None until then; raises ``Refused`` where it is too long.

    With the first ``before`` bytes alone it was not.
    """
    found = _END_OF_HEAD.search(received, max(0, before - 3))
    if received.find(b"\n", 0, LONGEST_LINE + 1) < 0 and len(received) > LONGEST_LINE:
        raise Refused(plain(HTTPStatus.REQUEST_URI_TOO_LONG))
    if (found.end() if found else len(received)) > LONGEST_HEAD:
        raise Refused(plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
    return bytes(received[: found.end()]) if found else None


def plain(status: HTTPStatus, text: str | None = None, **headers: str) -> Page:
    """A page that says its status, or ``text``."""
    return Page(f"{text or status.phrase}\n".encode(), status=status, headers=headers)


def response(page: Page, *, with_body: bool = True) -> bytes:
    """A page as it is sent; the connection ends after it."""
    headers = {
        "Server": "swh-sched-runner",
        "Content-Type": page.content_type,
        "Content-Length": str(len(page.body)),
        "Cache-Control": "no-store",
        "Connection": "close",
    }
    lines = [f"HTTP/1.0 {page.status.value} {page.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in (headers | dict(page.headers)).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (page.body if with_body else b"")
