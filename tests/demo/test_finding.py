"""Repositories are found wherever they are below a directory, once each, and tell when they changed."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from swh_sched_runner.demo import finding, forges
from tests.support.repositories import damage, git, repository


def names(root: Path, found: finding.Found) -> list[str]:
    return [str(path.relative_to(root)) for path in found.repositories]


def test_working_trees_nested_ones_and_bare_ones_are_found_nearest_first(tmp_path: Path) -> None:
    repository(tmp_path / "deep" / "below" / "bare.git", bare=True)
    repository(tmp_path / "tree")
    repository(tmp_path / "tree" / "vendor" / "nested")
    (tmp_path / "plain" / "refs").mkdir(parents=True)

    found = finding.find(tmp_path)

    assert names(tmp_path, found) == ["tree", "deep/below/bare.git", "tree/vendor/nested"]
    assert found.cut_short is None


def test_damaged_and_empty_repositories_are_found_too(tmp_path: Path) -> None:
    damage(repository(tmp_path / "damaged"))
    repository(tmp_path / "empty", commits=0)

    assert names(tmp_path, finding.find(tmp_path)) == ["damaged", "empty"]


def test_the_directory_itself_may_be_a_repository(tmp_path: Path) -> None:
    assert names(tmp_path, finding.find(repository(tmp_path / "self"))) == ["self"]


def test_a_linked_working_tree_is_a_repository_of_its_own(tmp_path: Path) -> None:
    git(repository(tmp_path / "main"), "worktree", "add", "--quiet", str(tmp_path / "linked"))

    found = finding.find(tmp_path)

    assert names(tmp_path, found) == ["linked", "main"]
    assert all(finding.last_update(path) is not None for path in found.repositories)


def test_links_are_not_followed_so_that_a_circle_ends(tmp_path: Path) -> None:
    repository(tmp_path / "a" / "one")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "one")

    assert names(tmp_path, finding.find(tmp_path)) == ["a/one"]


def test_a_search_that_is_cut_short_says_so(tmp_path: Path) -> None:
    for number in range(4):
        repository(tmp_path / f"{number}", commits=0)

    by_number = finding.find(tmp_path, most_repositories=2)
    by_directories = finding.find(tmp_path, most_directories=3)
    by_time = finding.find(tmp_path, most_seconds=-1)

    assert (names(tmp_path, by_number), by_number.cut_short) == (["0", "1"], "more than 2 repositories")
    assert (names(tmp_path, by_directories), by_directories.cut_short) == (["0", "1"], "more than 3 directories")
    assert by_time.cut_short == "not done within -1 s"


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        finding.find(tmp_path / "gone")


@pytest.mark.parametrize("bare", [False, True])
def test_a_commit_moves_the_last_update(tmp_path: Path, bare: bool) -> None:
    path = repository(tmp_path / "one", bare=bare)
    long_ago = time.time() - 1000
    for folder, _, files in os.walk(path):
        for name in (*files, "."):
            os.utime(Path(folder, name), (long_ago, long_ago))
    before = finding.last_update(path)

    forges.commit(path, "change")

    assert before is not None
    assert before.timestamp() == pytest.approx(long_ago, abs=1e-5)
    after = finding.last_update(path)
    assert after is not None
    assert after > before + timedelta(seconds=900)
    assert after <= datetime.now(UTC)


def test_what_can_not_be_read_tells_no_last_update(tmp_path: Path) -> None:
    (tmp_path / ".git").write_bytes(b"\xff\xfe gitdir: nowhere")

    assert finding.last_update(tmp_path) is None
