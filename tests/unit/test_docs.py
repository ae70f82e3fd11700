"""What the documents say is true where a program can tell."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from swh_sched_runner import config
from tests.support.sources import CHECKOUT

PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("deploy/*.md")])


def options(table: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Option by dotted name, with its default."""
    found: dict[str, object] = {}
    for name, value in table.items():
        if isinstance(value, dict) and value:
            found |= options(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def test_the_configuration_reference_names_every_option_with_its_default() -> None:
    defaults = msgspec.to_builtins(config.Settings())
    defaults["visits"] = {"<type>": msgspec.to_builtins(config.VisitSettings()) | {"policies": None}}
    defaults["broker"]["queues"] = {"<queue>": msgspec.to_builtins(config.QueueSettings())}
    page = (CHECKOUT / "docs/reference/configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", page, re.MULTILINE))

    assert rows.keys() == options(defaults).keys()
    for name, default in options(defaults).items():
        if default not in (None, {}) and not isinstance(default, tuple | list):
            shown = rows[name].strip().strip("`").strip('"')
            assert shown == str(default), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())

    missing = [link for link in links if not (page.parent / link).exists()]

    assert missing == []
