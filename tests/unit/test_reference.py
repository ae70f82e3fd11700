"""Pages of the reference are made of docstrings, of the schema and of the alerts."""

from __future__ import annotations

import re

from swh_sched_runner.cli import EPILOG, exit_status
from tests.support.sources import CHECKOUT
from tools import alerts, reference, tables


def test_the_page_says_what_the_docstrings_say() -> None:
    assert reference.FILE.read_text(encoding="utf-8") == reference.draw(), "run `make reference`"


def test_the_page_lists_every_error_that_a_docstring_names() -> None:
    page = reference.draw()

    for error in reference.ERRORS:
        assert f"| `{error}` |" in page


def test_the_page_of_tables_says_what_the_schema_says() -> None:
    assert tables.FILE.read_text(encoding="utf-8") == tables.draw(), "run `make reference`"


def test_the_page_of_tables_lists_all_that_has_a_comment() -> None:
    page = tables.draw()
    comments = tables.comments(tables.SCHEMA.read_text(encoding="utf-8"))

    columns = sorted(name for kind, name, _ in comments if kind == "COLUMN")
    assert len(columns) > 150
    assert sorted(listed(page.partition("## Types")[0])) == columns
    assert [name for kind, name, _ in comments if kind == "TYPE" and f"| `{name}` |" not in page] == []


def listed(page: str) -> list[str]:
    """The columns of a page that have a description, each with its table."""
    _, *sections = page.split("\n## ")
    row = re.compile(r"^\| `(\w+)` \| .*[^| ] \|$", re.MULTILINE)
    return [f"{section.split()[0]}.{column}" for section in sections for column in row.findall(section)]


def test_the_page_of_alerts_says_what_the_rules_say() -> None:
    assert alerts.FILE.read_text(encoding="utf-8") == alerts.draw(), "run `make reference`"


def test_the_page_of_alerts_has_all_of_each_rule() -> None:
    assert len(alerts.rules()) == alerts.RULES.read_text(encoding="utf-8").count("- alert:") > 0
    for rule in alerts.rules():
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "summary"}
        assert "|" not in rule["expr"]


def test_pages_and_help_list_the_exit_statuses_that_the_program_knows() -> None:
    known = {value for name, value in vars(exit_status).items() if name.isupper()}
    page = (CHECKOUT / "docs/reference/cli.md").read_text(encoding="utf-8").partition("## Exit status")[2]

    assert set(map(int, re.findall(r"^\| (\d+) \| \S", page, re.MULTILINE))) == known
    assert set(map(int, re.findall(r"\b(\d+)\s[a-z`]", EPILOG))) == known
