"""``events rejected``: what an operator sees of rejected events, and what becomes of them."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.dispatch.outbox import Dispatch
from swh_sched_runner.backend.events.rejected import Rejection
from swh_sched_runner.db.engine import Database
from tests.cli.conftest import Run
from tests.support.samples import NOW, a_type, run_of_a_task

AT = NOW.timestamp()


def event(kind: str, uuid: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, "uuid": uuid, "timestamp": AT + 60, "hostname": "w@h", "pid": 1} | fields).encode()


def ended(uuid: str, **result: Any) -> bytes:
    return event("task-result", uuid, result={"status": "success", "eventful": True} | result)


def reject(database: Database, *rejected: Rejection) -> None:
    Dispatch(database).record_events([], rejected)


def ids(run: Run) -> list[int]:
    return [row["id"] for row in run("events", "rejected", "list", "--json").json]


def status_of(database: Database, backend_id: str) -> str:
    with database.engine.connect() as conn:
        found = conn.execute(text("select status::text from task_run where backend_id = :id"), {"id": backend_id})
        return str(found.scalar_one())


@pytest.fixture
def open_run(backend: SchedulerBackend) -> str:
    backend.create_task_type(a_type())
    run_of_a_task(backend, "run-1")
    return "run-1"


def test_the_list_has_the_newest_first_with_reason_and_size(run: Run, database: Database) -> None:
    reject(database, Rejection.of("not JSON", b"\xff\0"), Rejection("too long", b"x" * 10, 2_000_000, {"a": "b"}))

    newest, oldest = run("events", "rejected", "list", "--json").json
    header, *rows = run("events", "rejected", "list").out.splitlines()

    assert {**newest, "received": None} == {
        "id": 2, "received": None, "reason": "too long", "size": 2_000_000, "kept": 10, "whole": False,
        "properties": {"a": "b"},
    }  # fmt: skip
    assert (oldest["reason"], oldest["size"], oldest["whole"]) == ("not JSON", 2, True)
    assert header.split("  ")[0] == "id"
    assert [row.split()[0] for row in rows] == ["2", "1"]


def test_a_list_that_was_cut_says_so_on_stderr(run: Run, database: Database) -> None:
    reject(database, *[Rejection.of("not JSON", b"x")] * 3)

    cut = run("events", "rejected", "list", "--limit", "2", "--json")

    assert [row["id"] for row in cut.json] == [3, 2]
    assert cut.err == "there are more than 2: raise --limit\n"
    assert run("events", "rejected", "list", "--limit", "3").err == ""


def test_a_body_is_shown_as_text_that_steers_no_terminal(run: Run, database: Database) -> None:
    reject(database, Rejection.of("not JSON", b"\x1b[31m\xff" + b"x" * 10_000))

    shown = run("events", "rejected", "show", "1")

    assert shown.status == 0
    assert "\\x1b[31m\\xff" in shown.out
    assert "\x1b" not in shown.out
    assert len(shown.out) < 6_000
    assert "--raw FILE" in shown.err


def test_the_raw_body_is_written_as_it_came(run: Run, database: Database, tmp_path: Path) -> None:
    body = bytes(range(256)) * 4_000
    reject(database, Rejection.of("not JSON", body))

    outcome = run("events", "rejected", "show", "1", "--raw", str(tmp_path / "body"))

    assert (outcome.status, outcome.out) == (0, "")
    assert (tmp_path / "body").read_bytes() == body


def test_programs_get_a_body_as_text_or_in_base64(run: Run, database: Database) -> None:
    reject(database, Rejection.of("no type", b'{"a": 1}'), Rejection.of("not JSON", b"\xff"))

    assert run("events", "rejected", "show", "1", "--json").json["body"] == '{"a": 1}'
    assert run("events", "rejected", "show", "2", "--json").json["body_base64"] == "/w=="


def test_a_body_that_can_not_be_written_exits_1(run: Run, database: Database, tmp_path: Path) -> None:
    reject(database, Rejection.of("not JSON", b"x"))

    outcome = run("events", "rejected", "show", "1", "--raw", str(tmp_path / "missing" / "body"))

    assert outcome.status == 1
    assert "No such file" in outcome.err


def test_replay_says_of_each_event_what_became_of_it(run: Run, database: Database, open_run: str) -> None:
    reject(
        database,
        Rejection.of("on purpose", ended(open_run)),
        Rejection.of("on purpose", ended("nobody's")),
        Rejection.of("on purpose", b'{"type": "worker-online", "timestamp": 1, "hostname": "w"}'),
        Rejection.of("not JSON", b"\xff"),
        Rejection("too long", b"[1", 2_000_000),
    )

    outcome = run("events", "rejected", "replay", "--all")

    assert outcome.status == 1
    applied, foreign, nothing, rejected, cut = outcome.out.splitlines()
    assert applied == "1: applied to run run-1"
    assert foreign == "2: foreign, no run has the id nobody's"
    assert nothing == "3: it speaks of no task, nothing to apply"
    assert rejected.startswith("4: still rejected: not JSON")
    assert cut == "5: its first 2 bytes of 2000000 are kept: it can't be replayed"
    assert ids(run) == [5, 4]
    assert status_of(database, open_run) == "eventful"


def test_programs_read_what_became_of_each_event(run: Run, database: Database, open_run: str) -> None:
    reject(database, Rejection.of("on purpose", b"[" + ended(open_run) + b"," + ended("nobody's") + b"]"))

    outcome = run("events", "rejected", "replay", "1", "--json")

    assert outcome.status == 0
    assert outcome.json == [{"id": 1, "outcome": "applied", "runs": ["run-1"], "foreign": ["nobody's"], "reason": None}]


def test_an_event_that_was_made_good_by_hand_is_applied(
    run: Run, database: Database, open_run: str, tmp_path: Path
) -> None:
    reject(database, Rejection("too long", ended(open_run)[:40], 2_000_000))
    (tmp_path / "good").write_bytes(ended(open_run))
    (tmp_path / "bad").write_bytes(b"{")

    bad = run("events", "rejected", "replay", "1", "--body", str(tmp_path / "bad"))
    assert (bad.status, ids(run), status_of(database, open_run)) == (1, [1], "scheduled")
    good = run("events", "rejected", "replay", "1", "--body", str(tmp_path / "good"))

    assert (good.status, good.out) == (0, "1: applied to run run-1\n")
    assert ids(run) == []
    assert status_of(database, open_run) == "eventful"


def test_the_good_elements_of_a_list_are_applied_and_its_row_stays(run: Run, database: Database, open_run: str) -> None:
    reject(database, Rejection.of("1 of 2", b"[" + ended(open_run) + b", 17]"))

    outcome = run("events", "rejected", "replay", "1")

    assert outcome.status == 1
    assert outcome.out.startswith("1: still rejected: 1 of 2 events")
    assert outcome.out.endswith("(applied to run run-1)\n")
    assert ids(run) == [1]
    assert status_of(database, open_run) == "eventful"


def test_what_the_database_refuses_again_stays_and_nothing_of_it_is_applied(
    run: Run, database: Database, open_run: str
) -> None:
    reject(database, Rejection.of("before", ended(open_run, status="failed", error="poison")))
    with database.engine.begin() as conn:
        conn.execute(text("alter table task_run add check (metadata ->> 'error' is distinct from 'poison')"))

    outcome = run("events", "rejected", "replay", "1")

    assert outcome.status == 1
    assert "check constraint" in outcome.out
    assert (ids(run), status_of(database, open_run)) == ([1], "scheduled")


@pytest.mark.parametrize("command", [("show", "99"), ("replay", "1", "99"), ("drop", "1", "99")])
def test_an_unknown_id_is_named_and_nothing_is_written(
    run: Run, database: Database, open_run: str, command: tuple[str, ...]
) -> None:
    reject(database, Rejection.of("on purpose", ended(open_run)))

    outcome = run("events", "rejected", *command)

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "swh-sched-runner: No rejected event has the id 99\n"
    assert (ids(run), status_of(database, open_run)) == ([1], "scheduled")


@pytest.mark.parametrize(
    "command",
    [
        ("replay",),
        ("replay", "1", "--all"),
        ("replay", "--all", "--body", "-"),
        ("replay", "1", "2", "--body", "-"),
        ("replay", "one"),
        ("drop",),
        ("drop", "1", "--all"),
        ("drop", "--all", "--older-than", "7d"),
        ("drop", "--older-than", "long"),
        ("show", "1", "--json", "--raw", "-"),
        ("list", "--limit", "-1"),
    ],
)
def test_wrong_usage_exits_64_and_changes_nothing(run: Run, database: Database, command: tuple[str, ...]) -> None:
    reject(database, *[Rejection.of("not JSON", b"x")] * 2)

    assert run("events", "rejected", *command).status == 64
    assert ids(run) == [2, 1]


def test_rejected_events_are_dropped_by_id_by_age_or_all(run: Run, database: Database) -> None:
    reject(database, *[Rejection.of("not JSON", b"x")] * 5)
    with database.engine.begin() as conn:
        conn.execute(
            text("update rejected_event set received = received - cast(:age as interval) where id in (2, 3)"),
            {"age": timedelta(days=8)},
        )

    assert run("events", "rejected", "drop", "5", "5").out == "dropped 1 rejected event\n"
    assert run("events", "rejected", "drop", "--older-than", "7d").out == "dropped 2 rejected events\n"
    assert ids(run) == [4, 1]
    assert run("events", "rejected", "drop", "--all").out == "dropped 2 rejected events\n"
    assert run("events", "rejected", "list").out == "  no rejected events\n"


def test_of_a_row_of_before_it_is_known_whether_its_body_is_whole(run: Run, database: Database, open_run: str) -> None:
    with database.engine.begin() as conn:
        for body in (ended(open_run), b"x" * 65_536):
            conn.execute(text("insert into rejected_event (reason, body) values ('before', :body)"), {"body": body})

    outcome = run("events", "rejected", "replay", "--all")

    assert outcome.out.splitlines() == [
        "1: applied to run run-1",
        "2: its first 65536 bytes are kept: it can't be replayed",
    ]
