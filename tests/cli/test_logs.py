"""Logs: the three formats, what is let through, what is hidden."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from swh_sched_runner.cli import logs

log = structlog.get_logger("swh_sched_runner.tests")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def logged(format: str, level: str = "info", stream: io.StringIO | None = None) -> io.StringIO:
    stream = io.StringIO() if stream is None else stream
    logs.configure(format, level, stream)
    return stream


def test_json_is_one_object_a_line_with_the_first_keys_first() -> None:
    stream = logged("json")

    log.info("dispatched", queue="a b", tasks=500, ms=38.5, bound=None)

    (line,) = stream.getvalue().splitlines()
    values = json.loads(line)
    assert list(values) == ["timestamp", "level", "event", "logger", "queue", "tasks", "ms", "bound"]
    assert values["timestamp"].endswith("Z")
    assert values["event"] == "dispatched"
    assert values["bound"] is None


def test_logfmt_is_one_line_of_values() -> None:
    stream = logged("logfmt")

    log.info("dispatched", queue="a b", tasks=500, full=True, odd="x\x1b[31m\ny")

    timestamp, _, rest = stream.getvalue().partition(" ")
    assert timestamp.startswith("timestamp=20")
    assert rest == (
        'level=info event=dispatched logger=swh_sched_runner.tests queue="a b" tasks=500 full=true odd=x\\x1b[31m\\ny\n'
    )


def test_console_is_for_people_and_coloured_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    plain, coloured = logged("console"), Terminal()
    log.info("dispatched", tasks=500)
    logged("console", stream=coloured)
    log.info("dispatched", tasks=500)
    monkeypatch.setenv("NO_COLOR", "1")
    refused = logged("console", stream=Terminal())
    log.info("dispatched", tasks=500)

    assert "tasks=500" in plain.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in refused.getvalue()


def test_auto_is_console_on_a_terminal_and_logfmt_elsewhere() -> None:
    elsewhere = logged("auto")
    log.info("dispatched")
    terminal = logged("auto", stream=Terminal())
    log.info("dispatched")

    assert "event=dispatched" in elsewhere.getvalue()
    assert "event=" not in terminal.getvalue()


@pytest.mark.parametrize("format", ["json", "logfmt"])
def test_an_exception_is_one_field(format: str) -> None:
    stream = logged(format)

    try:
        raise ValueError("broke\nin two lines")
    except ValueError:
        log.exception("flush failed")

    (line,) = stream.getvalue().splitlines()
    assert "Traceback" in line
    assert "in two lines" in line


@pytest.mark.parametrize("format", ["json", "logfmt", "console"])
def test_passwords_are_hidden_wherever_they_stand(format: str) -> None:
    stream = logged(format)

    log.warning("lost amqp://u:s3cret@h", url="redis://:s3cret@h", nested={"urls": ["postgresql://u:s3cret@h"]})
    logging.getLogger("kombu").error("can't reach %s", "amqp://u:s3cret@h//")
    try:
        raise RuntimeError("connection to password=s3cret failed")
    except RuntimeError as error:
        log.error("failed", exc_info=error, reason=error)

    assert stream.getvalue().count("***") >= 5
    assert "s3cret" not in stream.getvalue()


def test_libraries_are_heard_from_warnings_on_and_we_from_the_level_on() -> None:
    stream = logged("json", "debug")

    log.debug("ours, debug")
    logging.getLogger("celery.worker").info("theirs, info")
    logging.getLogger("celery.worker").warning("theirs, %s", "warning")
    warnings.warn("a warning", stacklevel=1)
    first = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    stream = logged("json", "error")
    log.warning("ours, warning")
    logging.getLogger("celery.worker").warning("theirs, warning")
    log.error("ours, error")
    second = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]

    assert first[:2] == ["ours, debug", "theirs, warning"]
    assert "a warning" in first[2]
    assert len(first) == 3
    assert second == ["ours, error"]


def test_the_journal_gets_priorities_and_no_second_timestamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for format in ("auto", "logfmt", "console", "json"):
        with (tmp_path / format).open("w+") as stream:
            found = os.fstat(stream.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
            logs.configure(format, "debug", stream)
            log.debug("a")
            log.info("b")
            log.warning("c")
            log.error("d", exc_info=ValueError("of two\nlines"))
            log.critical("e")
            stream.seek(0)
            lines = stream.read().splitlines()

        assert [line[:3] for line in lines if line[:3] != "<3>"] == ["<7>", "<6>", "<4>", "<2>"]
        assert format == "json" or not any(re.search(r"timestamp|\d{4}-\d\d-\d\d", line) for line in lines)
        if format == "json":
            assert all(json.loads(line[3:])["timestamp"] for line in lines)
        if format == "auto":
            assert lines[0] == "<7>level=debug event=a logger=swh_sched_runner.tests"


def test_elsewhere_lines_have_a_timestamp_and_no_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    with (tmp_path / "log").open("w+") as stream:
        logs.configure("auto", "info", stream)
        log.info("a")
        stream.seek(0)

        assert stream.read().startswith("timestamp=20")
