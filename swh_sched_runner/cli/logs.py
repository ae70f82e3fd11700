"""Logs: one line for each thing that happened, on stderr, for people or for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from types import TracebackType
from typing import IO, Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from swh_sched_runner.cli.output import printable, wants_colour
from swh_sched_runner.cli.stderr import Diverted
from swh_sched_runner.config import mask

OURS = "swh_sched_runner"
log = structlog.get_logger(__name__)

FORMATS = ("auto", "console", "logfmt", "json")
LEVELS = ("debug", "info", "warning", "error", "critical")
FOR_PROGRAMS = ("logfmt", "json")
_FIRST_KEYS = ("timestamp", "level", "event", "logger")


_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


class _Process:
    """Whether this process is ours alone, which format was asked for, and what stands in for stderr then."""

    owned = False
    format = "auto"
    diverted: Diverted | None = None


def own_process() -> None:
    """From now on what anything prints to stderr by itself goes into the log, where that is for programs.

    That is what C libraries say, and what Python says of exceptions that nobody caught.
    """
    _Process.owned = True
    sys.excepthook = _uncaught
    sys.unraisablehook = lambda said: log.error("exception ignored", where=repr(said.object), exc_info=said.exc_value)
    threading.excepthook = lambda said: log.error("thread died", exc_info=said.exc_value)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, Exception):
        log.critical("uncaught exception", exc_info=(kind, error, trace))
    else:
        sys.__excepthook__(kind, error, trace)


def for_programs() -> bool:
    """Whether somebody asked for a format that programs read: then every line on stderr is a line of the log."""
    return _Process.format in FOR_PROGRAMS


def to_journal(stream: IO[str] | None = None) -> bool:
    """Whether ``stream``, by default stderr, leads to systemd's journal, which has timestamps and priorities itself."""
    told = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat((sys.stderr if stream is None else stream).fileno())
    except (OSError, ValueError):  # a stream without a descriptor
        return False
    return told == f"{found.st_dev}:{found.st_ino}"


def as_lines() -> bool:
    """Whether what is said on stderr has to be a line of the log: it asked for, or the journal sorts by priority."""
    return for_programs() or (_Process.diverted is None and to_journal())


def asked_format() -> str:
    """The format that was asked for last."""
    return _Process.format


def _stderr() -> IO[str]:
    if _Process.owned and for_programs() and _Process.diverted is None:
        _Process.diverted = Diverted(lambda line: log.warning("printed to stderr", text=line))
    elif _Process.diverted is not None and not for_programs():
        _Process.diverted.end()
        _Process.diverted = None
    return sys.stderr if _Process.diverted is None else _Process.diverted.stream


class _Handler(logging.StreamHandler[IO[str]]):
    """Python's own would print a traceback beside the log where a line can't be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (Python's name)
        error = sys.exc_info()[1]
        if isinstance(error, OSError) or getattr(record, "second_try", False):  # nobody is there to read it
            return
        self.handle(
            logging.makeLogRecord(
                {
                    "name": record.name,
                    "levelno": logging.ERROR,
                    "levelname": "ERROR",
                    "msg": f"line of the log not written: {type(error).__name__}",
                    "second_try": True,
                }
            )
        )


class _JournalFormatter(structlog.stdlib.ProcessorFormatter):
    """Says the priority of each line, as sd-daemon(3) has it."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def _without_timestamp(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    event.pop("timestamp", None)
    return event


def configure(format: str = "auto", level: str = "info", stream: IO[str] | None = None) -> None:
    """Send our log, from ``level`` on, and that of the libraries, from warnings on, to ``stream`` (stderr).

    ``auto`` is console on a terminal and logfmt elsewhere. Passwords of URLs and connection strings are hidden
    wherever they stand. May be called again; the last call counts.
    """
    _Process.format = format
    stream = _stderr() if stream is None else stream
    if format == "auto":
        format = "console" if stream.isatty() else "logfmt"
    journal = to_journal(stream)
    handler = _Handler(stream)
    handler.setFormatter(
        (_JournalFormatter if journal else structlog.stdlib.ProcessorFormatter)(
            foreign_pre_chain=_common(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([_without_timestamp] if journal and format != "json" else []),
                *_renderers(format, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    logging.getLogger(OURS).setLevel(level.upper())
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            *_common(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a logger in use follows a later configuration
    )


def _common() -> list[Processor]:
    return [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _exception_as_text,
        _hide_passwords,
    ]


def _renderers(format: str, stream: IO[str]) -> list[Processor]:
    match format:
        case "console":
            return [
                _event_on_one_line,
                structlog.dev.ConsoleRenderer(
                    colors=wants_colour(stream), sort_keys=False, exception_formatter=structlog.dev.plain_traceback
                ),
            ]
        case "json":
            return [structlog.processors.JSONRenderer(serializer=_first_keys_first)]
        case _:
            return [
                _one_line,
                structlog.processors.LogfmtRenderer(key_order=_FIRST_KEYS, drop_missing=True, bool_as_flag=False),
            ]


def _exception_as_text(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    # Rendered before passwords are hidden: messages of errors may hold them.
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[0] is not None:
        event["exception"] = "".join(traceback.format_exception(*info)).rstrip()
    return event


def _hide_passwords(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return {key: _hidden(value) for key, value in event.items()}


def _hidden(value: Any) -> Any:
    match value:
        case str():
            return mask(value)
        case dict():
            return {key: _hidden(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_hidden(inner) for inner in value]
        case BaseException():
            return mask(str(value))
        case _:
            return value


def _event_on_one_line(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    event["event"] = printable(str(event.get("event", "")).strip())
    return event


def _one_line(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    # The renderer escapes newlines itself.
    return {k: printable(v.strip(), keep="\n") if isinstance(v, str) else v for k, v in event.items()}


def _first_keys_first(event: EventDict, **options: Any) -> str:
    ordered = {key: event[key] for key in _FIRST_KEYS if key in event} | dict(event)
    return json.dumps(ordered, **options)
