"""Databases to throw away, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import psycopg2.extensions
from psycopg2 import sql


@contextmanager
def created(server: str, name: str, template: str | None = None) -> Iterator[str]:
    """A database called ``name``, a copy of ``template`` if one is given, until the block ends; yields its URL."""
    copied = sql.SQL("create database {} template {}").format(
        sql.Identifier(name), sql.Identifier(template or "template0")
    )
    execute(server, copied)
    try:
        yield of(server, name)
    finally:
        # A connection that a test left open must not keep the database.
        execute(server, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def of(server: str, name: str) -> str:
    """The URL of another database of the same server."""
    if "://" not in server:
        return psycopg2.extensions.make_dsn(server, dbname=name)
    scheme, _, rest = server.partition("://")
    authority, _, path = rest.partition("/")
    _, question, query = path.partition("?")
    return f"{scheme}://{authority}/{name}{question}{query}"


def execute(url: str, statement: str | sql.Composable) -> None:
    """Run one statement outside a transaction."""
    with closing(psycopg2.connect(url.replace("postgresql+psycopg2://", "postgresql://", 1))) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute(statement)
