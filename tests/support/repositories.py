"""Git repositories for tests, real ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from swh_sched_runner.demo import forges

ENVIRONMENT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}


def git(folder: Path, *arguments: str) -> str:
    """Run git in ``folder``, with nobody's configuration."""
    done = subprocess.run(
        ["git", "-C", folder, *arguments], env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def repository(path: Path, *, bare: bool = False, commits: int = 1) -> Path:
    """A new repository with so many commits."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", *(["--bare"] if bare else []))
    for number in range(commits):
        forges.commit(path, f"commit {number}")
    return path


def damage(path: Path) -> Path:
    """Spoil the HEAD of a working tree's repository, so that git no longer reads it."""
    (path / ".git" / "HEAD").write_text("nonsense\n")
    return path
