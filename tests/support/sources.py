"""The checkout itself as the thing under test: copies of it, and commands run on them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
NOT_SOURCES = (
    ".git",
    ".venv",
    ".releases",
    "build",
    "dist",
    "site",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    ".baseline",
)


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that must succeed; what it said stands in the failure."""
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{command} in {cwd} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_sources(to: Path) -> Path:
    """The checkout as somebody who clones it gets it, uncommitted files included."""
    return Path(shutil.copytree(CHECKOUT, to, ignore=shutil.ignore_patterns(*NOT_SOURCES)))
