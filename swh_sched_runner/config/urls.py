"""URLs of databases and brokers, parsed here before a library does: its error texts may quote a password.

A reason why a URL is refused holds nothing of the URL but the names of its options, and those only where no password
can have run into them: an ``@`` behind the host says that one did.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg2")
BROKER_SCHEMES = ("amqp", "amqps", "pyamqp", "redis", "rediss", "redis+socket", "sentinel")
# Those of a list of URLs must be of one kind.
_KINDS = {"amqps": "amqp", "pyamqp": "amqp", "rediss": "redis", "redis+socket": "redis"}
_TAKEN_APART = ("amqp", "redis", "sentinel")
_TLS_OPTIONS = tuple(f"ssl_{name}" for name in ("cert_reqs", "ca_certs", "certfile", "keyfile", "check_hostname"))
_LOGIN_METHODS = ("PLAIN", "AMQPLAIN", "EXTERNAL")
_CERT_REQS = ("required", "optional", "none", "CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE")

# What libpq takes as of version 18. A newer one's options go into database.options.
LIBPQ_OPTIONS = frozenset(
    re.findall(
        r"\w+",
        """
    application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
    load_balance_hosts max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
    oauth_scope options passfile password port replication require_auth requirepeer requiressl scram_client_key
    scram_server_key service servicefile ssl ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode
    sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni
    target_session_attrs tcp_user_timeout tty user
    """,
    )
)
_WHOLE_NUMBERS = frozenset(
    {"connect_timeout", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout"}
)
_WORDS = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*+)://")
_END = {True: re.compile("/"), False: re.compile("[/?#]")}
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:@/?#\\,]*+)(?::([^:]*+))?+")
_PAIR = re.compile(r"\s*+(\w++)\s*+=\s*+(?:'((?:[^'\\]|\\.)*+)'|((?!')(?:\\.|[^\s\\])*+))(?=\s|\Z)\s*+", re.DOTALL)
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,9}\s*")
_QUOTE = "percent-encode the special characters of user and password (/ is %2F, @ %40, : %3A, # %23, ? %3F, % %25)"


class BadURL(ValueError):
    """Why something is no URL that can be used; without any of its content."""


class Parts(NamedTuple):
    """A parsed URL. ``credentials`` None is without an @; ports are text, empty where none is given."""

    scheme: str
    credentials: str | None
    hosts: tuple[tuple[str, str], ...]
    path: str
    query: tuple[tuple[str, str], ...]


def scheme_of(value: str) -> str | None:
    """The scheme of what begins like a URL, in small letters."""
    found = _SCHEME.match(value)
    return found[1].lower() if found else None


def take_apart(url: str, *, as_libpq: bool = False) -> Parts:
    """The parts of a URL; raises ``BadURL`` where it isn't clear which part something belongs to.

    Credentials end where the reader of the URL ends them: libpq at the first @ that has no slash before it, others at
    the last one before a slash, a question mark or a #.
    """
    found = _SCHEME.match(url)
    if found is None:
        raise BadURL("must be a URL")
    if _SPACE.search(url):
        raise BadURL(f"contains a space or a control character: {_QUOTE}")
    if _BAD_ESCAPE.search(url):
        raise BadURL(f"contains a % that is not followed by two hexadecimal digits, or %00: {_QUOTE}")
    rest = url[found.end() :]
    end = _END[as_libpq].search(rest)
    head, more = (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
    if "@" not in head:
        credentials = None
    elif as_libpq:
        credentials, _, head = head.partition("@")
    else:
        credentials, _, head = head.rpartition("@")
    rest = head + more
    if "@" in rest:
        raise BadURL(f"contains a misplaced @: {_QUOTE}")
    before, _, query = rest.partition("?")
    if "#" in rest:
        raise BadURL(f"contains a #: {_QUOTE}")
    authority, slash, path = before.partition("/")
    hosts = tuple(_host(one) for one in authority.split(","))
    return Parts(found[1].lower(), credentials, hosts, slash + path, tuple(_pairs(query)) if query else ())


def _host(text: str) -> tuple[str, str]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise BadURL(f"has a host or a port that can't be parsed: {_QUOTE}")
    port = found[2] or ""
    if port and not _is_port(port):
        raise BadURL(f"has a port that is not a number from 1 to 65535; if it is part of the password, {_QUOTE}")
    return found[1], port


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65_535


def _pairs(query: str) -> Iterable[tuple[str, str]]:
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        if not name.isidentifier() or not equals:
            raise BadURL(
                f"must have option=value, separated by &, after its question mark; if the ? is not one, {_QUOTE}"
            )
        yield name, unquote(value)


def database_fault(value: str) -> str | None:
    """Why ``value`` is no URL or connection string that libpq would take, or None; holds nothing of the value."""
    try:
        options = _database_options(value)
        if unknown := options.keys() - LIBPQ_OPTIONS:
            raise BadURL(f"has an unknown option{_meant(unknown, LIBPQ_OPTIONS)}; others go into database.options")
    except BadURL as error:
        return str(error)
    return libpq_fault(options)


def _meant(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Which known option is meant. The unknown is not repeated: an & in a password begins one."""
    near = [name for one in sorted(unknown) for name in difflib.get_close_matches(one[:40], known, n=1, cutoff=0.75)]
    return f", did you mean {near[0]}?" if near else ""


def database_shape_fault(value: str) -> str | None:
    """The same, but which options there are is left to libpq."""
    try:
        return libpq_fault(_database_options(value))
    except BadURL as error:
        return str(error)


def _database_options(value: str) -> dict[str, str]:
    """The options that ``value`` gives. libpq splits them in the same way."""
    scheme = scheme_of(value)
    if scheme is None:
        return _connection_string(value)
    if scheme not in DATABASE_SCHEMES:
        raise BadURL("must be a postgresql:// URL or a libpq connection string")
    parts = take_apart(value, as_libpq=True)
    ports = {"port": ",".join(port for _, port in parts.hosts)} if any(port for _, port in parts.hosts) else {}
    return ports | dict(parts.query)


def _connection_string(value: str) -> dict[str, str]:
    options, end = {}, 0
    while found := _PAIR.match(value, end):
        options[found[1]] = found[2] if found[2] is not None else found[3]
        end = found.end()
    if end != len(value) or not options or "\0" in value:
        raise BadURL("must be a postgresql:// URL or a libpq connection string: key=value, values with spaces in '…'")
    return options


def libpq_fault(options: Mapping[str, str]) -> str | None:
    """Which of libpq's options has a value that it would refuse, and what it must be; without the value."""
    for name, value in options.items():
        if name == "port" and not all(port == "" or _is_port(port) for port in value.split(",")):
            return "has a port that is not a number from 1 to 65535"
        if name in _WHOLE_NUMBERS and value and not _NUMBER.fullmatch(value):
            return f"needs a whole number for {name}"
        if value and name in _WORDS and value not in _WORDS[name]:
            return f"needs one of {', '.join(_WORDS[name])} for {name}"
    return None


def broker_fault(value: str) -> str | None:
    """Why ``value`` is no URL of a broker, or several between semicolons, or None; holds nothing of the value."""
    schemes = {scheme_of(url) for url in value.split(";")}
    if scheme_of(value) not in BROKER_SCHEMES or not schemes <= {*BROKER_SCHEMES, None}:
        return f"must be a URL that starts with one of {', '.join(f'{scheme}://' for scheme in BROKER_SCHEMES)}"
    return broker_shape_fault(value)


def broker_shape_fault(value: str, *, any_option: bool = False) -> str | None:
    """The same, whatever the schemes are."""
    urls = value.split(";")
    for number, url in enumerate(urls, 1):
        try:
            fault = _broker_fault(url, take_apart(url), any_option)
        except BadURL as error:
            fault = str(error)
        if fault is not None:
            return fault if len(urls) == 1 else f"{fault} (URL {number} of {len(urls)}, separated by ;)"
    kinds = {_kind(scheme_of(url) or "") for url in urls}
    return None if len(kinds) == 1 else f"must name brokers of one kind, not {' and '.join(sorted(kinds))}"


def any_fault(value: str) -> str | None:
    """Why ``value`` is no URL of any kind, or None; holds nothing of the value."""
    scheme = scheme_of(value)
    if scheme is None:
        return "must be a URL"
    return broker_shape_fault(value, any_option=True) if _kind(scheme) in _TAKEN_APART else None


def tls_options(value: str) -> dict[str, str]:
    """The options of TLS that the URLs of a broker give, without their ``ssl_``; ``value`` was found in order."""
    given = [pair for url in value.split(";") for pair in take_apart(url).query]
    return {name.removeprefix("ssl_"): text for name, text in given if name in _TLS_OPTIONS}


def _kind(scheme: str) -> str:
    return _KINDS.get(scheme, scheme)


def _broker_fault(url: str, parts: Parts, any_option: bool) -> str | None:
    kind = _kind(parts.scheme)
    if kind not in _TAKEN_APART:
        return None
    try:  # kombu asks this parser
        urlsplit(url).port  # noqa: B018
    except ValueError:
        return f"can't be parsed: {_QUOTE}"
    if len(parts.hosts) > 1:
        return "has several hosts: give several URLs, separated by ;"
    [(host, port)] = parts.hosts
    if parts.scheme == "redis+socket":
        if host or port or not unquote(parts.path).strip("/"):
            return "must name the path of a socket: redis+socket:///path"
    elif not host and (port or parts.credentials):
        return "has no host"
    elif kind != "amqp" and not re.fullmatch(r"(?:/(?:[0-9]{1,9})?)?", parts.path):
        return "must name the database by its number: redis://host/0"
    elif len(unquote(parts.path[1:]).encode()) > 255:
        return "has a virtual host of more than 255 bytes"
    return None if any_option else _option_fault(kind, parts)


def _option_fault(kind: str, parts: Parts) -> str | None:
    socket = ("virtual_host",) if parts.scheme == "redis+socket" else ()
    known = ("login_method",) if kind == "amqp" else (*socket, *_TLS_OPTIONS)
    for name, value in parts.query:
        if name not in known:
            place = ": put the password before the host, as in redis://:password@host" if name == "password" else ""
            return "has an unknown option" + (place or _meant([name], known) or f"; known are {', '.join(known)}")
        if name == "login_method" and value not in _LOGIN_METHODS:
            return f"needs one of {', '.join(_LOGIN_METHODS)} for {name}"
        if name == "ssl_cert_reqs" and value not in _CERT_REQS:
            return f"needs one of {', '.join(_CERT_REQS[:3])} for {name}"
        if name == "virtual_host" and not re.fullmatch(r"/?[0-9]{1,9}", value):
            return "must name the database by its number: redis+socket:///path?virtual_host=0"
    return None
