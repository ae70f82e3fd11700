"""The documentation site: it is built without a warning, and needs nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.support.sources import CHECKOUT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        skip_or_fail("MkDocs is not installed (pip install '.[docs]')")
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder)
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return folder


def articles(site: Path) -> dict[str, str]:
    """What each page says, as HTML without code, by its path."""
    pages = {str(file.relative_to(site)): file.read_text() for file in site.rglob("index.html")}
    found = {path: re.search(r"<article.*?</article>", text, re.DOTALL) for path, text in pages.items()}
    return {path: re.sub(r"(?s)<(pre|code)\b.*?</\1>", "", article[0]) for path, article in found.items() if article}


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    loaded = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\s\"'>]*)")
    imported = re.compile(r"(?:url\([\"']?|@import\s*[\"'])((?:https?:)?//[^\"')]*)")

    found = {path: [*loaded.findall(text := path.read_text()), *imported.findall(text)] for path in files}

    assert len(files) > 50
    assert {path: urls for path, urls in found.items() if urls} == {}


def test_nothing_makes_the_theme_load_what_it_would_load_from_elsewhere(site: Path) -> None:
    # Its script loads Mermaid for diagrams, and asks GitHub and GitLab about a repository that is named.
    wanted = re.compile(r'class="mermaid"|data-md-component="source"')

    assert [path for path in site.rglob("*.html") if wanted.search(path.read_text())] == []


@pytest.mark.parametrize(
    ("page", "link", "text"),
    [
        ("how-to/monitoring", "../../repository/deploy/prometheus/alerts.yml/", "SchedulerDatabaseDown"),
        ("how-to/systemd", "../../repository/deploy/", "Deploying with systemd"),
        ("state-machine", "../repository/sql/queries/tasks/runs.sql/", "task_run"),
        ("how-to/own-servers", "../../#use-it-with-a-database-a-broker-and-workers-of-your-own", "Guarantees"),
        (".", "repository/CONTRIBUTING/", "Setting up"),
        ("repository/deploy", "../../how-to/monitoring/#prometheus", "Monitor it"),
    ],
)
def test_links_across_the_border_of_docs_lead_to_the_file(site: Path, page: str, link: str, text: str) -> None:
    assert f'href="{link}"' in (site / page / "index.html").read_text()
    assert text in (site / page / link.partition("#")[0] / "index.html").read_text()


def test_the_search_finds_pages_by_an_index_of_their_own(site: Path) -> None:
    entries = json.loads((site / "search/search_index.json").read_text())["docs"]

    found = {entry["location"] for entry in entries if "PRECONDITION_FAILED" in entry["title"]}

    assert found == {"how-to/troubleshooting/#a-worker-cant-start-precondition_failed---inequivalent-arg"}
    assert [entry for entry in entries if ".py/" in entry["location"]] == []


def test_lists_and_emphasis_are_read_as_in_the_repository(site: Path) -> None:
    unread = re.compile(r"^\s*(?:[-*] |\d+\. |\|)(?!.*</h1>).*|\*\*|```|\]\(", re.MULTILINE)

    found = {path: unread.findall(text) for path, text in articles(site).items()}

    assert {path: lines for path, lines in found.items() if lines} == {}
