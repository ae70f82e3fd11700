"""A small disk that runs full: a tablespace on a tmpfs, where this process may mount one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MEGABYTES = 16


class Disk:
    """A tmpfs at ``directory``, to be filled to the last byte and emptied again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._filler = directory / "filler"

    def mount(self) -> bool:
        """Whether it is there now; where mounting is refused, nothing is."""
        self.directory.mkdir(parents=True)
        mounted = _run("mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=0700", "tmpfs", str(self.directory))
        if not mounted:
            self.directory.rmdir()
        return mounted

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1_000_000, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:  # full
                    continue

    def free(self) -> None:
        """Give the bytes back."""
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take it away, whoever still uses it."""
        if os.path.ismount(self.directory):
            _run("umount", "--lazy", str(self.directory))


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
