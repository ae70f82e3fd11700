"""How a table is laid out: in plain columns, or in the width of a terminal, one line a row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from unicodedata import combining, east_asian_width

CUT = "…"
GAP = "  "
# A column is squeezed to that before one of less worth is left out, and to the other when none is left to go.
SQUEEZED = 20
LEAST = 4

Cells = Sequence[Sequence[str]]


def plain(headers: Sequence[str], cells: Cells) -> Iterator[str]:
    """The lines of all columns, as wide as they are, the header first."""
    return _lines([headers, *cells], [_widest(column) for column in zip(headers, *cells, strict=True)])


def fitted(headers: Sequence[str], cells: Cells, width: int, leave_out: Sequence[str] = ()) -> Iterator[str]:
    """The lines in a terminal of ``width``. Columns are left out, then squeezed, until they fit.

    ``leave_out`` are the headers of those that may be, the first to go first.
    """
    columns = dict(zip(headers, zip(*cells, strict=True), strict=True))
    for header in leave_out:
        if _total(min(_widest((name, *column)), SQUEEZED) for name, column in columns.items()) <= width:
            break
        columns.pop(header, None)
    numbers = {header for header, column in columns.items() if _is_number(column)}
    widths = _squeezed([_widest((header, *column)) for header, column in columns.items()], width)
    return _lines([tuple(columns), *zip(*columns.values(), strict=True)], widths, [*map(numbers.__contains__, columns)])


def cut(text: str, width: int) -> str:
    """``text`` in so many columns of a terminal, with an ellipsis where something is missing."""
    if len(text) <= width and (text.isascii() or display_width(text) <= width):
        return text
    kept, left = "", width - 1
    for character in text:
        left -= display_width(character)
        if left < 0:
            break
        kept += character
    return kept + CUT


def display_width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _is_number(column: Collection[str]) -> bool:
    return all(text.isdecimal() or text == "-" for text in column)


def _widest(column: Sequence[str]) -> int:
    return max(map(display_width, column))


def _total(widths: Collection[int] | Iterator[int]) -> int:
    given: list[int] = [*widths]
    return sum(given) + len(GAP) * (len(given) - 1)


def _squeezed(widths: list[int], width: int) -> list[int]:
    """The widest columns give way first, and all of them stay at least ``LEAST`` wide."""
    while _total(widths) > width and max(widths) > LEAST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _lines(rows: Cells, widths: Sequence[int], right: Sequence[bool] = ()) -> Iterator[str]:
    for row in rows:
        line = []
        for text, width, to_the_right in zip(row, widths, right or [False] * len(widths), strict=True):
            shown = cut(text, width)
            blanks = " " * (width - display_width(shown))
            line.append(blanks + shown if to_the_right else shown + blanks)
        yield GAP.join(line).rstrip()
