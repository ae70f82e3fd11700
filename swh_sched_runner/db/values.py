"""How timestamps, intervals and JSON are read: what Python's types can't hold comes as PostgreSQL's text of it."""

from __future__ import annotations

from typing import Any

import msgspec
import psycopg2
import psycopg2.extensions as driver

from swh_sched_runner.model import TimestampText

# What the driver raises for a value that is beyond datetime or timedelta.
_BEYOND = (ArithmeticError, ValueError, psycopg2.Error)
_INFINITE = "infinity"  # the driver would silently read another value

_datetime: Any = driver.PYDATETIMETZ
_timedelta: Any = driver.PYINTERVAL


def _timestamp(value: Any, cursor: Any) -> Any:
    if value is None:
        return None
    if not value.endswith(_INFINITE):
        try:
            return _datetime(value, cursor)
        except _BEYOND:
            pass
    return TimestampText(value)


def _interval(value: Any, cursor: Any) -> Any:
    if value is None:
        return None
    if not value.endswith(_INFINITE):
        try:
            return _timedelta(value, cursor)
        except _BEYOND:
            pass
    return value


def _json(value: Any, _: Any) -> Any:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):  # numbers beyond a double or of 5,000 digits, lists nested 2,000 deep
        return value


TIMESTAMP = driver.new_type((1184,), "TIMESTAMP", _timestamp)
INTERVAL = driver.new_type((1186,), "INTERVAL", _interval)
JSON = driver.new_type((114, 3802), "JSON", _json)
