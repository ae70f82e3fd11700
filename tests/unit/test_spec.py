"""The models in docs/spec: every model is searched, the page has every line, and the runner notices what is wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.support.sources import CHECKOUT

pytestmark = pytest.mark.slow

SPEC = CHECKOUT / "docs/spec"
COUNTER = """
byte n;
active [2] proctype Counter() { byte seen; seen = n; n = seen + 1; assert(n <= LIMIT) }
"""


def lines() -> list[list[str]]:
    """The lines of checks.txt, in parts."""
    kept = [line for line in (SPEC / "checks.txt").read_text().splitlines() if line and not line.startswith("#")]
    return [[part.strip() for part in line.split("|")] for line in kept]


def checked(models: Path, *checks: str) -> subprocess.CompletedProcess[str]:
    """Run the runner on a small model of two counters."""
    for program in ("spin", "gcc"):
        if shutil.which(program) is None:
            skip_or_fail(f"{program} is not installed (apt install spin gcc)")
    (models / "counter.pml").write_text(COUNTER)
    (models / "checks.txt").write_text("".join(f"{check}\n" for check in checks))
    command = [sys.executable, SPEC / "check.py", "--models", models]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_model_is_searched() -> None:
    assert {line[1] for line in lines()} == {path.name for path in SPEC.glob("*.pml")}


def test_the_page_has_the_result_of_each_line_that_make_spec_runs() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [\d,]+ \| \d+ \|", (SPEC / "README.md").read_text(), re.MULTILINE)

    assert {line[0] for line in lines() if line[-1] != "full"} <= set(rows) <= {line[0] for line in lines()}


def test_each_line_has_a_name_of_its_own() -> None:
    names = [line[0] for line in lines()]

    assert len(set(names)) == len(names)


def test_a_property_that_holds_and_a_fault_that_is_caught_are_right(tmp_path: Path) -> None:
    done = checked(
        tmp_path,
        "two counters | counter.pml | -DLIMIT=2 | safety | holds",
        "mutant: one counter too many | counter.pml | -DLIMIT=1 | safety | n<=1",
    )

    assert (done.returncode, done.stdout.count("ok ")) == (0, 2)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("mutant | counter.pml | -DLIMIT=2 | safety | n<=2", "holds   (wanted: n<=2)"),
        ("property | counter.pml | -DLIMIT=1 | safety | holds", "(n<=1)   (wanted: holds)"),
        ("another property | counter.pml | -DLIMIT=1 | safety | seen", "(n<=1)   (wanted: seen)"),
        ("no model | counter.pml | -DLIMIT=( | safety | holds", "spin: "),
    ],
    ids=["a fault that is not caught", "a violation", "another violation", "a model that spin refuses"],
)
def test_any_other_outcome_is_wrong(tmp_path: Path, check: str, said: str) -> None:
    done = checked(tmp_path, check)

    assert done.returncode == 1
    assert done.stdout.startswith("WRONG")
    assert said in done.stdout
