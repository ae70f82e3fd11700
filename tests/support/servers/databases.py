"""Databases and brokers that tests throw away."""

from urllib.parse import parse_qs, urlsplit

from swh_sched_runner.db.scratch import created, execute, of
from swh_sched_runner.pytest_plugin import flush

__all__ = ["created", "execute", "flush", "of", "proxied"]


def proxied(database_url: str) -> str:
    """The server of the database as ``Proxy`` takes it, whether it listens on a port or a socket."""
    query = {key: values[0] for key, values in parse_qs(urlsplit(database_url).query).items()}
    if query.get("host", "").startswith("/"):
        return f"postgresql+socket://{query['host']}/.s.PGSQL.{query.get('port', 5432)}"
    return database_url
