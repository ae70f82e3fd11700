"""Other releases of Celery, each in an environment of its own that is made once: ``.releases/<release>``.

``python -m tests.support.processes.releases`` makes those that are missing; ``python_of`` makes one. Nothing of this
project is installed in them: what runs there imports Celery alone, and this checkout where it is on PYTHONPATH.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.sources import CHECKOUT

# Those whose workers must run our messages, oldest first.
RELEASES = ("5.3", "5.4", "5.5", "5.6", "5.7")
ENVIRONMENTS = CHECKOUT / ".releases"
INSTALL_SECONDS = 90.0


class Release(NamedTuple):
    """A release of Celery, and the interpreter that has it."""

    name: str
    python: Path


class ReleaseMissing(Exception):
    """An environment could not be made, as without a network."""


def python_of(release: str) -> Path:
    """The interpreter that has the newest Celery of a release; makes its environment (3 s). Raises ReleaseMissing."""
    environment = ENVIRONMENTS / release
    # Celery and kombu have the same numbers; a newer kombu would hide what the older one does.
    wanted = [f"celery[redis]=={release}.*", f"kombu=={release}.*"]
    mark, marked = environment / "made", f"{sys.version}\n{wanted}"
    with alone(release):
        if not mark.exists() or mark.read_text() != marked:
            install(environment, wanted)
            mark.write_text(marked)
    return environment / "bin" / "python"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Tests run in several processes; one of them makes an environment, the others wait for it."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(environment: Path, requirements: list[str], seconds: float = INSTALL_SECONDS) -> None:
    """Make an environment that has these packages, and nothing of this project. Raises ReleaseMissing."""
    venv.create(environment, clear=True, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "--no-input"]
    options = ["--disable-pip-version-check", "--quiet", "--retries", "1", "--timeout", "15"]
    try:
        done = subprocess.run(
            [*pip, "install", *options, *requirements],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ReleaseMissing(f"{requirements[0]} was not installed within {seconds:g} s") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["pip does not say why"]
        raise ReleaseMissing(f"{requirements[0]} can't be installed: {said[-1]}")


def main() -> int:
    """Make all environments; one that can't be made is named, and fails in CI alone, as its tests do."""
    failed = []
    with ThreadPoolExecutor(len(RELEASES)) as pool:
        for future in [pool.submit(python_of, release) for release in RELEASES]:
            try:
                future.result()
            except ReleaseMissing as error:
                failed.append(str(error))
    if failed:
        sys.stderr.write("\n".join([*failed, "tests that need them are skipped, and fail in CI\n"]))
    return bool(failed and os.environ.get("CI"))


if __name__ == "__main__":
    sys.exit(main())
