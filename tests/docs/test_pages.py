"""Pages are held to what they say: a page that can't be followed is noticed, and nothing of it stays behind."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docs.blocks import Fault, blocks, pattern
from tests.support.docs.pages import Page
from tests.support.sources import CHECKOUT

pytestmark = pytest.mark.slow

PAGES = [CHECKOUT / "README.md", CHECKOUT / "docs/tutorial.md", *sorted((CHECKOUT / "docs/how-to").glob("*.md"))]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with Page(tmp_path) as page:
        yield page


def sh(text: str) -> str:
    return f"```sh\n{text}\n```\n"


def console(text: str, note: str = "") -> str:
    return f"{note}\n```console\n{text}\n```\n"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_stand_in_blocks_that_are_run(path: Path) -> None:
    others = [block for block in blocks(path.read_text()) if not block.is_commands]

    assert [block for block in others if block.text.startswith(("$ ", "swh-sched-runner ", "make "))] == []


def test_blocks_run_in_order_in_one_shell_with_a_home_of_its_own(page: Page) -> None:
    page.follow(sh("cd ~ && word=kept") + "1. A list:\n\n" + textwrap.indent(sh("cat >it <<END\n  $word\nEND"), "   "))

    assert (page.home / "it").read_text() == "  kept\n"


@pytest.mark.parametrize(
    "text",
    [
        sh("false\ntrue"),
        sh("false | true\ntrue"),
        sh("exit 0"),
        console("$ false"),
        console("$ echo one\ntwo"),
        console("$ echo one; echo two\none"),
        console("$ echo swh-sched-runner: an error that ends with 0\nswh-sched-runner: …"),
        console("$ false\nready", "<!-- in the background -->"),
        console("shown before any command"),
        sh("curl https://example.org"),
        "<!-- not run: -->\n" + sh("true"),
        "<!-- not run -->\n" + sh("true"),
        "<!-- in the background -->\n" + sh("true"),
        console("$ true", "<!-- in the backgruond -->"),
    ],
)
def test_a_page_that_cannot_be_followed_is_noticed(page: Page, text: str) -> None:
    with pytest.raises(Fault):
        page.follow(text)


def test_a_block_with_a_reason_is_not_run(page: Page) -> None:
    page.follow("<!-- not run: needs root -->\n" + sh("false"))


def test_an_error_that_is_shown_is_expected(page: Page) -> None:
    page.follow(console("$ swh-sched-runner status\nswh-sched-runner: … nothing runs in /home/you/.local/share/…"))


def test_a_command_is_repeated_until_it_prints_what_is_shown(page: Page) -> None:
    page.follow(sh("cd ~ && echo >log"))

    page.follow(console("$ wc -l log; echo more >>log\n2 log", "<!-- until shown -->"))


def test_a_background_command_that_ended_is_noticed(page: Page) -> None:
    page.follow(sh("mkfifo it") + console("$ { echo ready; read line <it; }\nready", "<!-- in the background -->"))
    page.still_running()

    page.follow(sh("echo end >it"))

    with pytest.raises(Fault, match="Done"):
        page.still_running()


def test_what_a_page_started_ends_with_it(tmp_path: Path) -> None:
    with Page(tmp_path) as page:
        page.follow(sh("mkfifo it\ncat it &\nsetsid cat it &"))
        assert len(page.left()) == 3  # the shell too

    assert page.left() == {}


def test_what_does_not_end_when_asked_to_is_killed_and_noticed(tmp_path: Path) -> None:
    page = Page(tmp_path, end_seconds=0.5)
    page.follow(sh("mkfifo it\n(trap '' TERM; >begun; cat it) &\nuntil test -e begun; do :; done"))

    with pytest.raises(Fault, match="cat it"):
        page.close()

    assert page.left() == {}


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("id  next run", "id            next run"),
        ("due 2026-11-24 04:10:30 UTC", "due 2027-01-02 03:04:05 UTC"),
        ("took 0.017s", "took 1.2s"),
        ("seconds=1.15", "seconds=2"),
        ("/home/you/it", "/private/it"),
        ("one\n…\nlast", "one\ntwo\nthree\nlast"),
        ("one\n…\nlast", "one\nlast"),
    ],
)
def test_what_changes_from_time_to_time_may_be_different(shown: str, printed: str) -> None:
    assert pattern(shown, Path("/private")).fullmatch(printed + "\n")


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("interval 20s", "interval 10s"),
        ("limit", "bound"),
        ("one", "one\ntwo"),
        ("one\ntwo", "one"),
        ("a.c", "abc"),
    ],
)
def test_what_does_not_change_must_be_as_shown(shown: str, printed: str) -> None:
    assert not pattern(shown, Path("/private")).fullmatch(printed + "\n")
