"""Messages that pages quote are messages of the program: who searches for one finds the page that explains it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from swh_sched_runner.cli import COMMANDS, cli
from tests.support.sources import CHECKOUT

# Decisions and performance tell of former versions too; models and the reference of Python quote code.
PAGES = [
    CHECKOUT / "README.md",
    CHECKOUT / "docs/tutorial.md",
    *sorted(CHECKOUT.glob("docs/how-to/*.md")),
    *sorted(CHECKOUT.glob("docs/explanation/*.md")),
    *(CHECKOUT / f"docs/reference/{page}.md" for page in ("cli", "configuration", "events", "metrics", "rescuer")),
]
# What stands for a value: in the sources, and in a quote.
VALUE = "\0"
# Two words or more, as in a sentence: no option, assignment, call or placeholder of a command.
PROSE = re.compile(r"(?!.* (?:ID|NAME)\b)(… )?[A-Za-z][\w'.]*(,|:|;| …)? \(?[\w…']+(?![=(\w]).*")
PROGRAMS = {"swh-sched-runner", "alter", "celery", "git", "make", "rabbitmqctl", "swh", "systemctl"}
# Quoted too, but said or read by others.
OF_OTHERS = {
    "appendonly yes": "Redis",
    "inspect stats": "Celery",
    "timeout expired": "libpq",
    "unexpected keyword argument": "Python",
    "cls: remote": "swh.scheduler",
    "origin schedule-next": "swh.scheduler",
}


@cache
def messages() -> frozenset[str]:
    """Each string of the program, with ``VALUE`` for what is put in, in pieces between colons."""
    texts = [file.read_text() for file in CHECKOUT.glob("sql/queries/**/*.sql")]
    for file in CHECKOUT.glob("swh_sched_runner/**/*.py"):
        texts.extend(strings(ast.parse(file.read_text())))
    return frozenset(piece for text in texts for piece in pieces(re.sub(r"\{[^}]*\}", VALUE, text)))


@cache
def whole() -> str:
    return "\n".join(messages())


@cache
def templates() -> list[tuple[int, re.Pattern[str]]]:
    """The messages that values are put into, with the number of their own letters."""
    found = [message.strip() for message in messages() if VALUE in message and len(message) < 200]
    return [(letters(text), re.compile(".*".join(map(re.escape, text.split(VALUE))))) for text in found]


@cache
def commands() -> set[tuple[str, str]]:
    """Groups of commands, each with what is in it."""
    context = click.Context(cli)
    groups = {name: cli.get_command(context, name) for name in COMMANDS}
    return {
        (name, inner)
        for name, group in groups.items()
        if isinstance(group, click.Group)
        for inner in group.list_commands(context)
    }


def strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def pieces(text: str) -> list[str]:
    return [piece for piece in re.split(r":(?= |$)", " ".join(text.split())) if piece.strip()]


def is_message(quote: str) -> bool:
    """Whether the program can say this, piece by piece."""
    return all(is_said(part.strip()) for piece in pieces(quote) for part in piece.split("…"))


def letters(text: str) -> int:
    return sum(character.isalpha() for character in text)


def is_said(words: str) -> bool:
    """Whether a message holds these words, or is what they are with values put in, half of the letters at most."""
    enough = max(5, letters(words) / 2)
    said = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", whole())
    return bool(said) or any(own >= enough and pattern.fullmatch(words) for own, pattern in templates())


def quotes(page: Path) -> list[str]:
    """What a page quotes beside its blocks, but for commands."""
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text())
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [span for span in spans if PROSE.fullmatch(span) and not is_command(*span.split())]


def is_command(first: str, second: str, *others: str) -> bool:
    return first in PROGRAMS or (first, second) in commands()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_pages_quote_is_what_the_program_says(page: Path) -> None:
    assert [quote for quote in quotes(page) if quote not in OF_OTHERS and not is_message(quote)] == []


def test_quotes_are_found() -> None:
    found = {quote for page in PAGES for quote in quotes(page)}

    assert found >= {"queue skipped", "events await retry", "service waits", "… is in use by process …", *OF_OTHERS}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("queue skipped", "queue left alone"),
        ("no answer within 25 s", "no reply within 25 s"),
        ("no listener is alive: ends of runs wait in the broker", "no listener is alive: ends wait in the broker"),
        ("waits 12 s: The broker can't be reached …", "waits 12 s: The broker is not reached …"),
        ("… is in use by process …", "… is in use by program …"),
    ],
)
def test_a_quote_that_nothing_says_is_noticed(right: str, wrong: str) -> None:
    assert is_message(right)
    assert not is_message(wrong)
