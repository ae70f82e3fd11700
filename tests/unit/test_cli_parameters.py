"""How durations, moments and arguments of tasks are written on the command line, and how values are printed."""

from __future__ import annotations

import io
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swh_sched_runner.cli import output
from swh_sched_runner.cli.parameters import parse_arguments, parse_duration, parse_moment

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
    ("text", "moment"),
    [
        ("now", NOW),
        ("+5m", NOW + timedelta(minutes=5)),
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T01:00:00+01:00", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T00:00:00Z", datetime(2026, 2, 1, tzinfo=UTC)),
    ],
)
def test_moments_are_iso_or_relative(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment


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


def test_a_narrow_terminal_folds_and_never_cuts_and_is_spared_empty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://example.org/" + "abcdefghij" * 8
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")

    output.table(None, ("id", "priority", "url [red]"), [(1, None, url), (12, None, "[bold]x")])

    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert "priority" not in terminal.getvalue()
    assert "[bold]x" in terminal.getvalue()
    assert url in "".join(line[4:].strip() for line in lines)
