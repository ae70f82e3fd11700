"""Columns of rows as the text of an array."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from swh_sched_runner.backend.columns import column

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
ZONES = st.builds(timezone, st.integers(-15 * 60, 15 * 60).map(lambda minutes: timedelta(minutes=minutes)))
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS | st.sampled_from(["", "NULL", "null", "{}", ",", " a ", '"', "\\", '\\"', "a\nb", "'", "%s", ":x"]),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "boolean": st.booleans(),
    "bytea": st.binary(),
    "uuid": st.uuids().map(lambda value: UUID(str(value))),
    "timestamptz": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC) | ZONES),  # noqa: DTZ001 (the strategy adds the zone)  # noqa: DTZ001 (as hypothesis wants them)
}


def through_postgresql(conn: Connection, kind: str, values: list[Any]) -> list[Any]:
    """The values as PostgreSQL understood them."""
    statement = text(f"select value from unnest(cast(:values as {kind}[])) with ordinality as v (value, n) order by n")  # noqa: S608  # noqa: S608
    return [
        bytes(value) if kind == "bytea" and value is not None else value
        for value in conn.execute(statement, {"values": column(values)}).scalars()
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_reads_as_it_was_written(engine: Engine, kind: str) -> None:
    with engine.connect() as conn:

        @given(st.lists(st.none() | KINDS[kind], max_size=20))
        def check(values: list[Any]) -> None:
            assert through_postgresql(conn, kind, values) == values

        check()


@pytest.mark.parametrize("write", [lambda: 1.5, object, lambda: {}.keys])
def test_a_column_refuses_what_it_cannot_write(write: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="no column can store a"):
        column([write()])
