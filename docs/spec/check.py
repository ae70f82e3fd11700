#!/usr/bin/env python3
"""Search the models with SPIN, one line of checks.txt after the other, and say whether each came out as wanted.

A line is right if its property holds and should, or if it is violated in the way that the line names. The exit status
is 1 if any line is wrong. WORDs choose the lines of a model, or whose name contains one of them. Needs spin and gcc.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = "900"  # for each program
# A longer path than this is not searched; the longest so far has some 700,000 steps.
DEPTH = "-m2000000"
LIMITS = ("-DVECTORSZ=2048", "-DMEMLIM=8000")
TABLE = re.compile(r"(<!-- written by `make spec WRITE=1` -->\n).*(?=<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Check:
    """A line of checks.txt."""

    name: str
    model: str
    options: tuple[str, ...]
    live: bool
    wanted: str  # "holds", or a part of the property that is violated
    full: bool

    @classmethod
    def parse(cls, line: str) -> Check:
        name, model, options, kind, wanted, *rest = (part.strip() for part in line.split("|"))
        if kind not in ("safety", "live") or rest not in ([], ["full"]):
            raise ValueError(f"not a line of checks.txt: {line}")
        return cls(name, model, tuple(options.split()), kind == "live", wanted, bool(rest))


@dataclass(frozen=True)
class Result:
    """What came out of a line. ``seconds`` is the time of the processor, for compiling and searching."""

    check: Check
    outcome: str
    states: int = 0
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        if self.check.wanted == "holds":
            return self.outcome == "holds"
        return self.outcome != "holds" and self.check.wanted in self.outcome

    def __str__(self) -> str:
        wanted = "" if self.right else f"   (wanted: {self.check.wanted})"
        measured = f"{self.states:>9} states {self.seconds:6.1f} s"
        return f"{'ok   ' if self.right else 'WRONG'} {self.check.name:66} {measured}  {self.outcome}{wanted}"


@dataclass
class Folder:
    """Where one line is searched; counts the processor's time."""

    path: Path
    seconds: float = field(default=0.0, init=False)

    def call(self, *command: str) -> str:
        """Run a program to its end and return what it said. A search that finds a fault does not fail."""
        said = self.path / "said"
        with said.open("w") as file:
            process = subprocess.Popen(
                ("timeout", SECONDS, *command), cwd=self.path, stdout=file, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds += usage.ru_utime + usage.ru_stime
        return said.read_text(errors="replace")


def checks(models: Path) -> Iterator[Check]:
    """The lines of checks.txt."""
    for line in (models / "checks.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            yield Check.parse(line)


def search(check: Check, models: Path, keep: Path | None) -> Result:
    """Translate the model, compile it, search it."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Folder(Path(directory))
        shutil.copy(models / check.model, folder.path)
        options = (*check.options, "-DLIVE") if check.live else check.options
        said = folder.call("spin", *options, "-a", check.model)
        if not (folder.path / "pan.c").exists():
            return Result(check, f"spin: {said.strip()[:200]}")
        kind = ("-DNFAIR=4",) if check.live else ("-DSAFETY", "-DNOFAIR")
        # Compressed states need a fifth of the memory, and half as much time again: for the large searches.
        compressed = ("-DCOLLAPSE",) if check.full else ()
        # A violation is found soon: to optimise would take longer than to search.
        level = "-O1" if check.wanted == "holds" else "-O0"
        said = folder.call("gcc", level, "-w", *LIMITS, *kind, *compressed, "-o", "pan", "pan.c")
        if not (folder.path / "pan").exists():
            return Result(check, f"gcc: {said.strip()[:200]}")
        said = folder.call("./pan", "-n", DEPTH, *(("-a", "-f") if check.live else ()))
        if keep and "errors: 0" not in said:
            trail = folder.call("spin", *options, "-t", "-p", "-g", "-l", check.model)
            (keep / f"{re.sub('[^a-zA-Z0-9]+', '-', check.name)}.txt").write_text(trail)
        return Result(check, outcome(said), states(said), folder.seconds)


def outcome(said: str) -> str:
    """ "holds", the property that is violated, or why it is not known."""
    if found := re.search(r"^pan:\d+: (.*?)(?: \(at depth \d+\))?$", said, re.MULTILINE):
        return re.sub(r"assertion violated\s*", "", found[1]).strip()
    if "errors: 0" not in said or "Search not completed" in said:
        return f"not completed: {said.strip()[-300:]}"
    return "holds"


def states(said: str) -> int:
    """How many were stored."""
    return sum(int(float(number)) for number in re.findall(r"^\s*([0-9.e+]+) states, stored", said, re.MULTILINE))


def write(page: Path, names: list[str], results: Iterable[Result]) -> None:
    """Put the results into the table of a page; lines that were not run keep theirs."""
    rows = {
        row.split(" | ")[0].removeprefix("| "): row for row in page.read_text().splitlines() if row.startswith("| ")
    }
    for r in results:
        rows[r.check.name] = f"| {r.check.name} | {r.states:,} | {r.seconds:.0f} | {shown(r)} |"
    table = [
        "| line | states | seconds | outcome |",
        "|---|---|---|---|",
        *(rows[name] for name in names if name in rows),
    ]
    page.write_text(TABLE.sub(lambda found: found[1] + "\n".join(table) + "\n", page.read_text()))


def shown(result: Result) -> str:
    """The outcome for README.md: of a violated property, the part that the line names."""
    if result.outcome == "holds" or not result.right:
        return result.outcome
    return "violated: an endless run" if result.check.live else f"violated: `{result.check.wanted}`"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--full", action="store_true", help="the large searches as well")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--keep", type=Path, help="write each counterexample into a file in this folder")
    parser.add_argument("--write", action="store_true", help="write the results into README.md")
    parser.add_argument("--models", type=Path, default=HERE, help="the folder of the models and of checks.txt")
    return parser.parse_args()


def main() -> int:
    given = parsed()
    for program in ("spin", "gcc"):
        if shutil.which(program) is None:
            sys.stderr.write(f"{program} is not installed. On Debian or Ubuntu: apt install spin gcc\n")
            return 1
    chosen = [c for c in checks(given.models) if (given.full or not c.full) and wants(given.words, c)]
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    began, results = time.monotonic(), []
    with ThreadPoolExecutor(given.jobs) as pool:
        for result in pool.map(partial(search, models=given.models, keep=given.keep), chosen):
            say(str(result))
            results.append(result)
    wrong = sum(not result.right for result in results)
    say(f"{len(results)} lines in {time.monotonic() - began:.0f} s, {wrong} wrong")
    if given.write:
        write(given.models / "README.md", [check.name for check in checks(given.models)], results)
    return 1 if wrong or not results else 0


def wants(words: list[str], check: Check) -> bool:
    """Is the line chosen?"""
    return not words or any(word in check.name or word == check.model for word in words)


if __name__ == "__main__":
    sys.exit(main())
