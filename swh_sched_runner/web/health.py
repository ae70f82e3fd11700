"""``/healthz``: do the services give signs of life? ``/readyz``: is everything there that they depend on?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from email.message import Message
from http import HTTPStatus
from typing import Any

import msgspec

from swh_sched_runner.config import mask
from swh_sched_runner.exc import SchemaError
from swh_sched_runner.web.recent import Recent
from swh_sched_runner.web.server import Page

# A probe that comes every second still asks the servers only so often.
KEPT_SECONDS = 2.0
PATIENCE_SECONDS = 5.0


def alive(silent: Callable[[], Mapping[str, float]]) -> Callable[[Message], Page]:
    """200 unless ``silent`` names services, with the seconds since their last sign of life; then 503 with them."""

    def answer(_: Message) -> Page:
        stuck = {name: f"no sign of life for {seconds:.0f} s" for name, seconds in silent().items()}
        return _json({"status": "stuck", "silent": stuck} if stuck else {"status": "alive"}, ok=not stuck)

    return answer


def ready(
    dependencies: Mapping[str, Callable[[], object]], standing_by: Callable[[], Collection[str]] = tuple
) -> Callable[[Message], Page]:
    """200, or 503 with each dependency that is missing and why: those whose function raises, or takes too long.

    One that raises ``SchemaError`` is there, and what is missing is the right ``schema``. Services that are
    ``standing_by`` are ready, and are named.
    """
    recent = {
        name: Recent(ask, kept_seconds=KEPT_SECONDS, patience_seconds=PATIENCE_SECONDS)
        for name, ask in dependencies.items()
    }

    def answer(_: Message) -> Page:
        for asked in recent.values():
            asked.begin()  # all at once, so that they are waited for together
        missing: dict[str, str] = {}
        for name, asked in recent.items():
            try:
                asked.get()
            except SchemaError as error:
                missing["schema"] = _in_words(error)
            except Exception as error:  # whatever keeps it from answering, it is missing
                missing[name] = _in_words(error)
        waiting = {"standing_by": [*names]} if (names := standing_by()) else {}
        content = {"status": "not ready", "missing": missing} if missing else {"status": "ready"}
        return _json(content | waiting, ok=not missing)

    return answer


def _in_words(error: Exception) -> str:
    return mask(" ".join(str(error).split()) or type(error).__name__)


def _json(content: dict[str, Any], *, ok: bool) -> Page:
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Page(msgspec.json.encode(content) + b"\n", "application/json", status)
