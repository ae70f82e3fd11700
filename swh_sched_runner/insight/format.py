"""How timestamps, durations and numbers are written for people."""

from __future__ import annotations

from datetime import UTC, timedelta

from swh_sched_runner.model import Timestamp, TimestampText

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))
ERROR_CHARACTERS = 200


# Words for people; programs get the stored ones.
STATUS_WORDS = {
    "next_run_not_scheduled": "waiting",
    "next_run_scheduled": "in flight",
    "completed": "completed",
    "disabled": "disabled",
}


def timestamp(value: Timestamp) -> str:
    """``2026-03-01 12:00:00``, in UTC; one that no datetime holds is its text."""
    return str(value) if isinstance(value, TimestampText) else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(value: timedelta) -> str:
    """``1d12h`` for a day and a half; fractions of a second stay with the seconds, exactly."""
    seconds, micros = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
    text = "-" if value < timedelta(0) else ""
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        text += f"{count}{unit}" if count else ""
    fraction = f".{micros:06d}".rstrip("0.")
    if seconds or fraction or text in ("", "-"):
        text += f"{seconds}{fraction}s"
    return text


def about(value: timedelta) -> str:
    """``value`` as ``duration`` writes it, in whole seconds, and in whole minutes from an hour on."""
    unit = timedelta(minutes=1) if abs(value) >= timedelta(hours=1) else timedelta(seconds=1)
    return duration(unit * round(value / unit))


def count(number: int, thing: str) -> str:
    """``1 message``, ``1,200 messages``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def end_of(status: str, ended: Timestamp | None, error: str | None) -> str:
    """``ended failed at 2026-03-01 12:00:00 UTC: it said so``, the first line of what it said."""
    at = f" at {timestamp(ended)} UTC" if ended else ""
    said = (error or "").strip().splitlines()[:1]
    return f"ended {status}{at}" + "".join(f": {line[:ERROR_CHARACTERS]}" for line in said)
