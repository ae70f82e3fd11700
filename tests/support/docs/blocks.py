"""The blocks of a page of the documentation, and what they say about how their commands are run.

``sh`` blocks are scripts: each command must succeed. In ``console`` blocks commands stand behind ``$``, and what they
print below. A comment directly above a block, which a browser doesn't show, says how it is run:

- ``<!-- not run: REASON -->``: not at all.
- ``<!-- in the background -->``: it goes on while the next ones run, which begin once it has printed what is shown.
- ``<!-- until shown -->``: it is repeated until what is shown is among what it prints.
- ``<!-- saved as ~/FILE -->``, above a block of any language: it is written to this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = ("sh", "bash", "shell")
CONSOLE = "console"
NOT_RUN = "not run"
BACKGROUND = "in the background"
UNTIL_SHOWN = "until shown"
SAVED = "saved as ~/"
HOME_SHOWN = "/home/you"


class Fault(Exception):
    """A page that can't be followed: where, and why."""


@dataclass(frozen=True)
class Block:
    """A fenced block. ``line`` is that of its fence, ``note`` the comment above it."""

    line: int
    language: str
    text: str
    note: str | None

    @property
    def is_commands(self) -> bool:
        return self.language in (*SCRIPTS, CONSOLE)

    @property
    def not_run(self) -> bool:
        """Whether the page says that this can't be run, and why; raises ``Fault`` for a note that says nothing."""
        word, _, reason = (self.note or "").partition(":")
        if word == NOT_RUN and reason.strip():
            return True
        known = (None, BACKGROUND, UNTIL_SHOWN) if self.language == CONSOLE else (None,)
        if self.note not in known:
            raise Fault(f"line {self.line}: unknown note, or none that gives a reason: {self.note!r}")
        return False


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = iter(enumerate(text.splitlines(), 1))
    above = ""
    for number, line in lines:
        if fence := re.match(r"( *)```+(\w*)$", line.rstrip()):
            indent, language = fence.groups()
            body = []
            for _, inner in lines:
                if inner.strip().startswith("```"):
                    break
                body.append(inner.removeprefix(indent))
            note = re.fullmatch(r"<!-- *(.*?) *-->", above.strip())
            found.append(Block(number, language, "\n".join(body) + "\n", note[1] if note else None))
        above = line
    return found


def commands(console: str) -> list[tuple[str, str]]:
    """What is typed and what is shown below it, for each command of a ``console`` block."""
    found: list[tuple[str, str]] = []
    typing = False
    for line in console.splitlines(keepends=True):
        if typing:
            found[-1] = (found[-1][0] + line, "")
        elif line.startswith("$ "):
            found.append((line.removeprefix("$ "), ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line)
        else:
            raise Fault(f"shown before any command: {line!r}")
        typing = (typing or line.startswith("$ ")) and line.endswith("\\\n")
    return found


# What differs from one time to the next, in what is shown.
_CHANGING = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"),
    (r"\b\d+\.\d+s|\b0s\b", r"[\d.]+m?s"),
    (r"\d+(?:\.\d+)+", r"\d+(?:\.\d+)*"),
    (r" +", r" +"),
    (r"…", r".*"),
)
_CHANGING_TOKEN = re.compile("|".join(f"({shown})" for shown, _ in _CHANGING))


def pattern(shown: str, home: Path) -> re.Pattern[str]:
    """Finds what is shown among whole lines, whatever the time, how wide columns are and what ``…`` stands for."""
    lines = []
    for line in shown.replace(HOME_SHOWN, str(home)).splitlines():
        if line.strip() == "…":
            lines.append(r"(?:.*\n)*?")
            continue
        text, at = "", 0
        for token in _CHANGING_TOKEN.finditer(line.rstrip()):
            assert token.lastindex is not None
            text += re.escape(line[at : token.start()]) + _CHANGING[token.lastindex - 1][1]
            at = token.end()
        lines.append(text + re.escape(line.rstrip()[at:]) + r" *\n")
    return re.compile("^" + "".join(lines), re.MULTILINE)
