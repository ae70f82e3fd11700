"""What the documents say is true where a program can tell."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from swh_sched_runner import config
from swh_sched_runner.cli import COMMANDS
from tests.support.sources import CHECKOUT

PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("deploy/*.md")])
NOT_SET = "–"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))


def options(table: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Option by dotted name, with its default; weights of policies are one option."""
    found: dict[str, object] = {}
    for name, value in table.items():
        if isinstance(value, dict) and value and name != "policies":
            found |= options(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def documented() -> dict[str, object]:
    """Option by dotted name, with the default that the page gives, which is TOML."""
    page = (CHECKOUT / "docs/reference/configuration.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (?:`([^`]+)`|(–)) \| \S", page, re.MULTILINE)
    return {name: None if unset == NOT_SET else tomllib.loads(f"it = {text}")["it"] for name, text, unset in rows}


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_configuration_reference_names_every_option_with_its_default() -> None:
    defaults = msgspec.to_builtins(config.Settings())
    defaults["visits"] = {"<type>": msgspec.to_builtins(config.VisitSettings())}
    defaults["broker"]["queues"] = {"<queue>": msgspec.to_builtins(config.QueueSettings())}

    expected = {name: list(value) if isinstance(value, tuple) else value for name, value in options(defaults).items()}

    assert documented() == expected


def test_the_command_reference_names_every_command() -> None:
    page = (CHECKOUT / "docs/reference/cli.md").read_text()

    named = set(re.findall(r"^\| `([a-z-]+)", page, re.MULTILINE))

    assert named == set(COMMANDS)


@each_page
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text())

    missing = [
        f"{file}#{anchor}"
        for file, anchor in links
        if not (target := page.parent / file if file else page).exists() or (anchor and anchor not in anchors(target))
    ]

    assert missing == []
