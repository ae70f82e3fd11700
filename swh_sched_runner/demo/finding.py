"""Finds the git repositories below a directory, and says when they last changed."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs

MOST_DIRECTORIES = 100_000
MOST_REPOSITORIES = 5_000
MOST_SECONDS = 20.0
MOST_REFS = 10_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BARE = frozenset({"HEAD", "objects", "refs"})


@attrs.define(slots=True, frozen=True)
class Found:
    """Repositories, nearest first; ``cut_short`` says why there may be more."""

    repositories: list[Path]
    cut_short: str | None


def find(
    root: Path,
    *,
    most_directories: int = MOST_DIRECTORIES,
    most_repositories: int = MOST_REPOSITORIES,
    most_seconds: float = MOST_SECONDS,
) -> Found:
    """The repositories in and below ``root``: working trees, those inside of them too, and bare ones.

    Symbolic links are not followed, so that nothing is found twice and no circle is entered. What can't be read is
    passed over. Raises ``OSError`` where ``root`` itself can't be read.
    """
    found: list[Path] = []
    waiting = deque([root])
    deadline = time.monotonic() + most_seconds
    for seen in range(most_directories):
        if not waiting:
            return Found(found, None)
        if len(found) >= most_repositories:
            return Found(found, f"more than {most_repositories} repositories")
        if time.monotonic() > deadline:
            return Found(found, f"not done within {most_seconds:g} s")
        directory = waiting.popleft()
        try:
            names, below = _read(directory)
        except OSError:
            if seen == 0:
                raise
            continue
        if ".git" in names:
            found.append(directory)
        elif names >= _BARE:
            found.append(directory)
            continue
        waiting.extend(directory / name for name in below if name != ".git")
    return Found(found, f"more than {most_directories} directories" if waiting else None)


def is_repository(path: Path) -> bool:
    """Whether a repository, sound or damaged, is at ``path``; raises ``OSError`` where that can't be seen."""
    try:
        names, _ = _read(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return ".git" in names or names >= _BARE


def last_update(repository: Path) -> datetime | None:
    """When a ref of the repository last changed, as its files tell; None where they can't be read."""
    try:
        folders = _git_folders(repository)
        timestamps = [os.stat(path).st_mtime_ns for folder in folders for path in _telling(folder)]
    except (OSError, ValueError):
        return None
    if not timestamps:
        return None
    return EPOCH + timedelta(microseconds=min(max(timestamps), time.time_ns()) // 1000)


def _read(directory: Path) -> tuple[set[str], list[str]]:
    """The names in a directory, and those of its directories in order."""
    with os.scandir(directory) as entries:
        kinds = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    return set(kinds), sorted(name for name, is_directory in kinds.items() if is_directory)


def _git_folders(repository: Path) -> list[Path]:
    """Where HEAD and refs are: one folder, or two for a linked working tree."""
    folder = repository / ".git"
    if folder.is_file():
        folder = repository / folder.read_text().removeprefix("gitdir:").strip()
    elif not folder.exists():
        folder = repository
    common = folder / "commondir"
    return [folder, folder / common.read_text().strip()] if common.is_file() else [folder]


def _telling(folder: Path) -> Iterator[Path]:
    """Files and folders that change when a ref does."""
    yield from (path for name in ("HEAD", "packed-refs") if (path := folder / name).exists())
    left = MOST_REFS
    for below in ("refs", "reftable"):
        for directory, _, names in os.walk(folder / below):
            yield Path(directory)
            left -= len(names)
            if left < 0:
                return
            yield from (path for name in names if (path := Path(directory, name)).exists())
