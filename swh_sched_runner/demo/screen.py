"""Shows the demo: a picture that moves on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise, zip_longest

import structlog
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from swh_sched_runner.demo.picture import NEVER, Listing, Observer, Picture, Queue, Visit
from swh_sched_runner.services.service import Heartbeat, Periodic

LOOK_SECONDS = 0.5
SUMMARY_SECONDS = 5.0
# Looking takes a tenth of the time at most, however much there is to see.
REST = 9.0
LISTINGS_SHOWN = 8
INTERVALS_SHOWN = 4
ROOMY_LINES = 30
OUTCOMES = {"eventful": "green", "uneventful": "", "failed": "red", "not_found": "magenta"}
STATUSES = {"successful": "green", "failed": "red", "not_found": "magenta", NEVER: "dim"}

log = structlog.get_logger(__name__)


class Summary(Periodic):
    """A service for programs and pipes: says in one line how things stand, every few seconds."""

    name = "summary"

    def __init__(self, observer: Observer) -> None:
        self.period_seconds = SUMMARY_SECONDS
        self._observer = observer

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """Look and say."""
        picture = self._observer.look()
        log.info(
            "so far",
            **_fields("origins", picture.origins),
            **_fields("visits", picture.visits),
            **_fields("listings", picture.runs),
            intervals=", ".join(f"{listing.label}: {history(listing.intervals)}" for listing in picture.listings),
        )
        self.period_seconds = max(SUMMARY_SECONDS, REST * self._observer.seconds)
        return False

    def close(self) -> None:
        """Nothing to give up."""


class Screen(Periodic):
    """A service for people: draws the picture, about twice a second."""

    name = "screen"

    def __init__(self, observer: Observer, live: Live, title: Callable[[], str], footer: Sequence[str]) -> None:
        self.period_seconds = LOOK_SECONDS
        self._observer = observer
        self._live = live
        self._title = title
        self._footer = footer

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """Look and draw."""
        picture = self._observer.look()
        console = self._live.console
        self._live.update(draw(picture, self._title(), self._footer, console, datetime.now(UTC)), refresh=True)
        self.period_seconds = max(LOOK_SECONDS, REST * self._observer.seconds)
        return False

    def close(self) -> None:
        """Nothing to give up; the picture stays as it was."""


def live(console: Console) -> Live:
    """What the screen draws on: the terminal's other screen, so that its size may change and nothing is left behind."""
    return Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)


def draw(picture: Picture, title: str, footer: Sequence[str], console: Console, now: datetime) -> RenderableType:
    """The picture, as high as ``console`` at most: of the last visits there are as many as fit."""
    shown = picture.listings[:LISTINGS_SHOWN]
    left = len(picture.listings) - len(shown)
    gap = [""] if console.height >= ROOMY_LINES else []
    above: list[RenderableType] = [_line(title, "bold"), *gap, _listings(shown, now)]
    above += [_line(f"… and {left} more sources", "dim")] if left else []
    above += [*gap, _queues(picture.queues), *gap]
    above += [_counts("origins by last visit", picture.origins, STATUSES)]
    above += [_counts("visits since the start", picture.visits, OUTCOMES), *gap]
    below = [Text(line, "dim", overflow="fold") for line in footer]
    # Tables have a line for their names above their rows.
    lines = len(above) + len(shown) + len(picture.queues) + len(gap) + 1
    lines += sum(len(line.wrap(console, console.width)) for line in below)
    return Group(*above, _recent(picture.recent[: max(console.height - lines, 0)]), *gap, *below)


def history(intervals: Sequence[timedelta]) -> str:
    """How an interval went: ``8s ↓ 4s ↓ 2s``."""
    shown = [f"{interval.total_seconds():.3g}s" for interval in intervals]
    arrows = ["↓" if after < before else "↑" for before, after in pairwise(intervals)]
    return " ".join(part for pair in zip_longest(shown, arrows, fillvalue="") for part in pair).rstrip()


def _listings(listings: Sequence[Listing], now: datetime) -> Table:
    table = _table("listings of", "found", "eventful", "uneventful", "failed", "next in", "interval", left=(0, 6))
    for listing in listings:
        failed = sum(count for status, count in listing.runs.items() if status in ("failed", "permfailed", "lost"))
        table.add_row(
            Text(listing.label),
            str(listing.origins),
            Text(str(listing.runs.get("eventful", 0)), OUTCOMES["eventful"]),
            str(listing.runs.get("uneventful", 0)),
            Text(str(failed), OUTCOMES["failed"] if failed else "dim"),
            "now" if listing.next_run is None else f"{max((listing.next_run - now).total_seconds(), 0):.0f}s",
            _intervals(listing.intervals[-INTERVALS_SHOWN:]),
        )
    return table


def _intervals(intervals: Sequence[timedelta]) -> Text:
    """The history, the newest part of it in colour: green where it is visited more often."""
    if len(intervals) < 2:
        return Text(history(intervals), no_wrap=True)
    older, arrow, last = history(intervals).rsplit(" ", 2)
    style = "green" if arrow == "↓" else "yellow"
    return Text.assemble((f"{older} ", "dim"), (f"{arrow} {last}", style), no_wrap=True, overflow="ellipsis")


def _queues(queues: Sequence[Queue]) -> Table:
    table = _table("queue", "waiting", "limit", left=(0,))
    for queue in queues:
        table.add_row(
            Text(queue.name),
            "?" if queue.depth is None else str(queue.depth),
            "unlimited" if queue.max_queue_length is None else str(queue.max_queue_length),
        )
    return table


def _recent(visits: Sequence[Visit]) -> Table:
    table = _table("last visits", "", "", left=(0, 1, 2), header=bool(visits))
    for visit in visits:
        timestamp = visit.date.astimezone().strftime("%H:%M:%S")
        outcome = visit.outcome.replace("_", " ")
        table.add_row(
            timestamp, Text(outcome, OUTCOMES[visit.outcome]), Text(visit.origin, no_wrap=True, overflow="ellipsis")
        )
    return table


def _table(*headers: str, left: Sequence[int], header: bool = True) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=header)
    for place, name in enumerate(headers):
        table.add_column(name, justify="left" if place in left else "right", no_wrap=True, overflow="ellipsis")
    return table


def _counts(name: str, counts: Mapping[str, int], styles: Mapping[str, str]) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{name}: ", "bold")
    parts = [(f"{counts.get(key, 0)} {key.replace('_', ' ')}", style) for key, style in styles.items()]
    for place, (text, style) in enumerate(parts):
        line.append(", " if place else "").append(text, style)
    return line


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _fields(name: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {f"{name}_{key.replace(' ', '_')}": count for key, count in sorted(counts.items())}
