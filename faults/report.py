"""Plays the rounds of a ``make`` target: a line each, a summary. Files stay of rounds in which not all held."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Protocol, TypeVar

from faults.servers import MAX_MESSAGE_BYTES, Servers
from tests.support.servers import rabbitmq


class Result(Protocol):
    """What a round came to; its text is the line that tells of it."""

    @property
    def violations(self) -> list[str]:
        """What did not hold."""


R = TypeVar("R", bound=Result)
# Plays the rounds with these servers, files in this folder: the folder of each, and what it came to.
Rounds = Callable[[Servers, Path], Iterable[tuple[Path, R]]]
# What so many rounds came to, in so many seconds.
Summary = Callable[[list[R], float], str]


def parser(target: str, description: str | None, rounds: int) -> argparse.ArgumentParser:
    """What every target can be told."""
    made = argparse.ArgumentParser(prog=f"make {target}", description=description)
    made.add_argument("--rounds", type=int, default=rounds, help="how many")
    made.add_argument("--seed", type=int, help="of the first round; the next ones count on; by default by chance")
    made.add_argument("--keep", action="store_true", help="keep the files of rounds in which all held, too")
    return made


def seeds(options: argparse.Namespace) -> range:
    """The seeds of the rounds."""
    first = Random().randrange(1_000_000) if options.seed is None else options.seed
    return range(first, first + options.rounds)


def play(
    target: str,
    rounds: Rounds[R],
    summary: Summary[R],
    *,
    keep: bool = False,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> int:
    """Play the rounds and tell of them; the exit status: 1 if anything did not hold."""
    if reason := rabbitmq.missing():
        _say(reason)
        return 1
    directory = Path(tempfile.mkdtemp(prefix=f"{target}-"))
    results: list[R] = []
    started = time.monotonic()
    try:
        with Servers(directory / "servers", max_message_bytes) as servers:
            for folder, result in rounds(servers, directory):
                results.append(result)
                _say(str(result))
                if not result.violations and not keep:
                    shutil.rmtree(folder)
    finally:
        shutil.rmtree(directory / "servers", ignore_errors=True)
        if any(directory.iterdir()):
            _say(f"logs and notes: {directory}")
        else:
            directory.rmdir()
    _say(summary(results, time.monotonic() - started))
    return int(any(result.violations for result in results))


def _say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
