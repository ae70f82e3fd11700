"""Passwords: how they are hidden wherever text is shown, and how one from a file gets into a URL."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from swh_sched_runner.exc import ConfigurationError

HIDDEN = "***"
# Possessive quantifiers, and no start within a word: what is masked may be hostile, and must not take longer than text
# of its size takes.
_NAME = r"(?:passw(?:or)?d|passphrase|secret|token)"
_SECRET_KEY = re.compile(_NAME, re.IGNORECASE)
_KEY = re.compile(rf"\b(?=\w*?{_NAME})\w++(?:\\*+['\"]\s*+[=:]|\s*+=)\s*+", re.IGNORECASE)
# A quote that is never closed hides all that follows: hiding too much does no harm.
_QUOTED = r"(?:'(?:[^'\\]|\\.)*+(?:'|\\?\Z)|\"(?:[^\"\\]|\\.)*+(?:\"|\\?\Z))?+"
_VALUE = re.compile(rf"{_QUOTED}(?:\\.|[^\s\\]|\\\Z)*+", re.DOTALL)
_VALUE_IN_URL = re.compile(rf"{_QUOTED}[^\s&]*+", re.DOTALL)
_URL = re.compile(r"://(\S++)")
_PORT = re.compile(r"[0-9]{1,5}(?![^/?#;,.)\]}>'\"])")
# How far a password with spaces is looked for its end.
_LONGEST_SPACED = 200


def mask(text: str) -> str:
    """``text`` with the passwords of URLs and of libpq connection strings replaced by ``***``.

    What may be one counts as one. Takes time in proportion to the text, whatever stands in it.
    """
    return _mask_values(_mask_urls(text))


def _mask_urls(text: str) -> str:
    pieces, done = [], 0
    for found in _URL.finditer(text):
        if found.start() < done:
            continue
        begin, end = _password_in_url(text, *found.span(1))
        if begin < end:
            pieces += [text[done:begin], HIDDEN]
            done = end
    return "".join([*pieces, text[done:]])


def _password_in_url(text: str, begin: int, end: int) -> tuple[int, int]:
    """Where the password stands, given where the URL's part after ``://`` does."""
    # Up to the last @: a password may hold one.
    at = text.rfind("@", begin, end)
    if at >= 0:
        colon = text.find(":", begin, at)
        return (colon + 1, at) if colon >= 0 else (at, at)
    # Without any @ the word is a URL without a password, or its beginning, up to a space in the password.
    slash = text.find("/", begin, end)
    colon = text.find(":", begin, end if slash < 0 else slash)
    if colon < 0 or colon + 1 == end or text[begin] == "[" or _PORT.match(text, colon + 1, end):
        return end, end
    at = text.find("@", end, end + _LONGEST_SPACED)
    return colon + 1, end if at < 0 else at


def _mask_values(text: str) -> str:
    pieces, done = [], 0
    for found in _KEY.finditer(text):
        if found.start() < done:
            continue
        in_url = text[found.start() - 1 : found.start()] in ("?", "&")
        value = (_VALUE_IN_URL if in_url else _VALUE).match(text, found.end())
        if value is not None and value.end() > value.start():
            pieces += [text[done : found.end()], HIDDEN]
            done = value.end()
    return "".join([*pieces, text[done:]])


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
        reason = "has a password already" if parts.password is not None else "has no host that needs one"
        raise ConfigurationError(reason=f"broker.password_file is given, but broker.url {reason}")
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))
