"""Passwords: how they are hidden wherever text is shown, and how one from a file gets into a URL."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from swh_sched_runner.exc import ConfigurationError

HIDDEN = "***"
# Greedy up to the last @: a password may hold one, and hiding too much does no harm.
_IN_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://[^\s:/@]*):[^\s]*@")
_IN_TEXT = re.compile(r"(\b\w*passw(?:or)?d)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&;,'\"]+)", re.IGNORECASE)
_SECRET_KEY = re.compile(r"passw(or)?d|passphrase|secret|token", re.IGNORECASE)


def mask(text: str) -> str:
    """``text`` with the passwords of URLs and of libpq connection strings replaced by ``***``."""
    return _IN_TEXT.sub(rf"\1\2{HIDDEN}", _IN_URL.sub(rf"\1:{HIDDEN}@", text))


def is_secret(key: str) -> bool:
    """Whether an option of that name holds a secret; the name of a file that holds one is none."""
    return _SECRET_KEY.search(key) is not None and not key.endswith("_file")


def masked(value: Any) -> Any:
    """A copy of plain values without secrets: by the names of keys, and within every string."""
    match value:
        case dict():
            return {key: HIDDEN if is_secret(str(key)) and inner else masked(inner) for key, inner in value.items()}
        case list() | tuple():
            return [masked(inner) for inner in value]
        case str():
            return mask(value)
        case _:
            return value


def with_password(url: str | None, password: str) -> str:
    """``url``, or each of several between semicolons, with the password, quoted.

    Raises ``ConfigurationError`` for a URL that names no host or has a password already.
    """
    return ";".join(_with_password(one, password) for one in (url or "").split(";"))


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    if not parts.netloc or parts.password is not None:
        reason = "has a password already" if parts.password is not None else "names no host that wants one"
        raise ConfigurationError(reason=f"broker.password_file is given, but broker.url {reason}")
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))
