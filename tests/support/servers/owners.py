"""Processes that own a data directory, as this user or another, in the namespace that they are given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
OWNER = Path(__file__).with_name("owner.py")


@dataclass
class Owner:
    """A running owner: its process, where its servers are, and their pids by name."""

    process: subprocess.Popen[str]
    database: str | None
    broker: str
    pids: dict[str, int]


@contextmanager
def owner(
    directory: Path,
    *,
    database: bool = True,
    prefix: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> Iterator[Owner]:
    """An owner of ``directory``, stopped by SIGTERM at the end; ``prefix`` is what runs it, such as setpriv."""
    process = subprocess.Popen(
        [*prefix, sys.executable, str(OWNER), str(directory), *([] if database else ["broker"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | (environment or {}),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the owner did not start: {process.stderr.read()}")
        yield Owner(process, **json.loads(line))
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)
        process.stdout.close()
        process.stderr.close()
