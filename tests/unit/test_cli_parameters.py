"""How durations, timestamps, limits and arguments are written on the command line, and how values are printed."""

from __future__ import annotations

import io
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swh_sched_runner.cli import layout, output
from swh_sched_runner.cli.parameters import limit, operator, parse_arguments, parse_duration, parse_timestamp, seconds
from swh_sched_runner.model import Pause

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        ("1d12h", timedelta(days=1, hours=12)),
        ("1 day", timedelta(days=1)),
        ("1 day, 2 hours 3 minutes", timedelta(days=1, hours=2, minutes=3)),
        ("0.5s", timedelta(milliseconds=500)),
        ("P1D", timedelta(days=1)),
        ("PT1H30M", timedelta(minutes=90)),
        ("P1DT0.5S", timedelta(days=1, milliseconds=500)),
        ("0s", timedelta(0)),
    ],
)
def test_durations_are_written_as_people_write_them(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "5", "soon", "1x", "1d 5", "P", "PT", "-1d", "1y", "99999999999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(text)}|too long"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36500)))
def test_a_printed_duration_reads_back(duration: timedelta) -> None:
    assert abs(parse_duration(output.duration(duration)) - duration) <= timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("now", NOW),
        ("+5m", NOW + timedelta(minutes=5)),
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T01:00:00+01:00", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T00:00:00Z", datetime(2026, 2, 1, tzinfo=UTC)),
    ],
)
def test_timestamps_are_iso_or_relative(text: str, timestamp: datetime) -> None:
    assert parse_timestamp(text, NOW) == timestamp


def test_limits_are_numbers_or_none() -> None:
    assert [limit("5", "N"), limit("none", "N"), limit("0.5", "N", float), limit("5", "N", float)] == [
        5,
        None,
        0.5,
        5.0,
    ]


@pytest.mark.parametrize(("text", "kind"), [("", int), ("None", int), ("0.5", int), ("5/s", float), ("all", float)])
def test_what_is_no_limit_is_refused_by_the_name_of_its_option(text: str, kind: type[int] | type[float]) -> None:
    with pytest.raises(click.BadParameter, match=f"{text!r} is neither a number nor `none`") as refused:
        limit(text, "--rate-limit", kind)

    assert refused.value.param_hint == "--rate-limit"


def test_seconds_are_numbers_that_end() -> None:
    assert [seconds("0"), seconds("1.5"), seconds("1e3")] == [0, 1.5, 1000]
    for text in ("", "-1", "inf", "nan", "5s"):
        with pytest.raises(click.BadParameter, match=f"{text!r} is not a number of seconds"):
            seconds(text)


def test_who_runs_a_command_is_told_without_a_name_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "host")
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)  # in no list of users

    assert operator() == "4000000@host"
    monkeypatch.setenv("LOGNAME", "ada")
    assert operator() == "ada@host"


def test_a_pause_is_printed_with_who_and_why_if_that_is_known() -> None:
    assert output.cell(Pause(NOW)) == "2026-01-31 12:00:00"
    assert output.cell(Pause(NOW, "ada@host", "odd\x1b")) == "2026-01-31 12:00:00 by ada@host: odd\\x1b"


@pytest.mark.parametrize(
    ("words", "as_json", "arguments"),
    [
        ([], False, {"args": [], "kwargs": {}}),
        (["a", "b=c=d", "5"], False, {"args": ["a", "5"], "kwargs": {"b": "c=d"}}),
        (["https://h/?q=1"], False, {"args": ["https://h/?q=1"], "kwargs": {}}),
        (["5", "b=null", "c=[1]"], True, {"args": [5], "kwargs": {"b": None, "c": [1]}}),
        (['"a=b"'], True, {"args": ["a=b"], "kwargs": {}}),
    ],
)
def test_words_with_a_name_and_an_equals_sign_are_keywords(
    words: list[str], as_json: bool, arguments: dict[str, Any]
) -> None:
    assert parse_arguments(words, as_json) == arguments


@given(st.text())
def test_printable_text_steers_no_terminal(text: str) -> None:
    assert output.printable(text).isprintable()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, *arguments: Any, **options: Any) -> list[str]:
    """The lines of a table on a terminal of so many columns."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    output.table(*arguments, **options)
    return terminal.getvalue().splitlines()


def test_a_terminal_gets_one_line_a_row_and_is_spared_empty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(1, None, "u" * 80), (12, None, "[bold]x")]

    lines = on_terminal(monkeypatch, 40, None, ("id", "priority", "url [red]"), rows)

    assert lines == ["id  url [red]", f" 1  {'u' * 35}…", "12  [bold]x"]


def test_columns_of_least_worth_go_first_and_only_as_far_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("a" * 30, "b" * 30, "c" * 30, "d" * 30)]

    def shown(columns: int) -> str:
        header, row = on_terminal(monkeypatch, columns, None, ("a", "b", "c", "d"), rows, leave_out=("c", "b"))
        assert len(row) <= columns
        return "".join(header.split())

    assert [shown(columns) for columns in (126, 86, 80, 60, 42)] == ["abcd", "abcd", "abd", "ad", "ad"]


@pytest.mark.parametrize(("text", "width", "shown"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 4, "日…")])
def test_a_text_is_cut_to_the_columns_it_takes(text: str, width: int, shown: str) -> None:
    assert layout.cut(text, width) == shown


def test_elsewhere_every_column_is_there_and_texts_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(None, ("id", "priority", "text"), [(1, None, "x" * 100)], leave_out=("text",))

    assert capsys.readouterr().out == f"id  priority  text\n1   -         {'x' * 59}…\n"
