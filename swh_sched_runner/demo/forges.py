"""A dozen sample repositories on three forges, and the commits that keep coming to them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import structlog

from swh_sched_runner.demo import git
from swh_sched_runner.services.service import Heartbeat, Periodic

COMMITTING_SECONDS = 600.0
GIT_SECONDS = 30.0
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Demo"), ("EMAIL", "demo@example.invalid"))
}

log = structlog.get_logger(__name__)


@attrs.define(slots=True, frozen=True)
class Forge:
    """A folder of repositories. ``tells_last_update``: its listings say when each of them last changed."""

    name: str
    tells_last_update: bool
    seconds_between_commits: float
    repositories: tuple[str, ...]


# Names that end in .git are bare, as on a server.
FORGES = (
    Forge("busy", True, 1.5, ("anvil", "bellows.git", "crucible", "drill.git")),
    Forge("calm", True, 15.0, ("ember", "flint.git", "granite", "hammer")),
    Forge("quiet", False, 45.0, ("iron", "jig.git", "kiln", "ladle.git")),
)
BROKEN = ("calm", "hammer")


def make(folder: Path) -> None:
    """Make the forges in ``folder``, where they are not there yet; one repository is damaged."""
    if folder.exists():
        _remove_stale_locks(folder)
        return
    # Made aside and renamed: half a forge would never be completed.
    aside = folder.with_name(folder.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    for forge in FORGES:
        for name in forge.repositories:
            repository = aside / forge.name / name
            _git(aside.parent, "init", "--quiet", "--template=", *(["--bare"] if _bare(name) else []), str(repository))
            for message in ("begin", "go on"):
                commit(repository, message)
    (aside.joinpath(*BROKEN) / ".git" / "HEAD").write_text("damaged on purpose\n")
    aside.rename(folder)


def commit(repository: Path, message: str) -> None:
    """Add a commit that changes no file; safe beside readers."""
    parent = _git(repository, "rev-parse", "--quiet", "--verify", "HEAD", check=False)
    tree = f"{parent}^{{tree}}" if parent else _git(repository, "mktree")
    new = _git(repository, "commit-tree", *(["-p", parent] if parent else []), "-m", message, tree)
    _git(repository, "update-ref", "HEAD", new)


class Commits(Periodic):
    """A service that commits to the forges, each at its own rate, for some minutes."""

    name = "commits"
    period_seconds = 0.25

    def __init__(self, folder: Path, until: float) -> None:
        """``until`` is a timestamp of ``time.monotonic``."""
        self._folder = folder
        self._until = until
        self._next = {forge: _soon(forge) for forge in FORGES}

    def run_once(self, heartbeat: Heartbeat) -> bool:
        """Commit wherever it is time to."""
        now = time.monotonic()
        for forge, timestamp in self._next.items():
            if timestamp <= now < self._until and not heartbeat.stopping:
                self._next[forge] = _soon(forge)
                self._commit(forge)
        return False

    def close(self) -> None:
        """Nothing to give up."""

    def _commit(self, forge: Forge) -> None:
        whole = [name for name in forge.repositories if (forge.name, name) != BROKEN]
        repository = self._folder / forge.name / random.choice(whole)
        try:
            commit(repository, "change")
        except (OSError, subprocess.SubprocessError) as error:  # removed by somebody, or the disk is full
            log.warning("no commit", repository=str(repository), reason=str(error))


def _soon(forge: Forge) -> float:
    return time.monotonic() + forge.seconds_between_commits * random.uniform(0.5, 1.5)


def _bare(name: str) -> bool:
    return name.endswith(".git")


def _remove_stale_locks(folder: Path) -> None:
    """What a git that was killed left behind: it would refuse every commit to that branch."""
    for lock in folder.rglob("*.lock"):
        lock.unlink(missing_ok=True)


def _git(folder: Path, *arguments: str, check: bool = True) -> str:
    # Nobody's own configuration: signing, hooks and other names for branches have no place here.
    env = git.environment() | IDENTITY | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    command: Sequence[str] = ("git", "-C", str(folder), "-c", "init.defaultBranch=main", *arguments)
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GIT_SECONDS,
        check=check,
        start_new_session=True,  # Ctrl-C in a terminal doesn't reach it
    )
    return done.stdout.strip()
