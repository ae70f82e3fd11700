"""Runners, servers and connections die under load; nothing is lost, nothing has two ids, no bound is passed.

``make faults`` plays more of these rounds. Here the first is that of TEST_SEED, in CI always the same one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.dice import CI_SEED, dice
from tests.support.faults import drawn, rounds
from tests.support.faults.kinds import TURNS
from tests.support.faults.servers import Servers

ROUNDS = int(os.environ.get("ROUNDS", "10"))


@pytest.fixture(scope="module")
def first_seed() -> int:
    """Where the turns of kinds begin anew, unless a seed is given."""
    if given := os.environ.get("TEST_SEED"):
        return int(given)
    return CI_SEED // len(TURNS) * len(TURNS) if os.environ.get("CI") else dice().randrange(10_000) * len(TURNS)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_round_of_crashes_loses_nothing_and_passes_no_bound(
    servers: Servers, first_seed: int, tmp_path: Path, number: int
) -> None:
    # Every other one without a fault besides, else they take too long.
    result = rounds.play(servers, tmp_path, first_seed + number, fault=None if number % 2 else drawn.NONE)

    sys.stdout.write(f"TEST_SEED={first_seed + number} ROUNDS=1\n{result}\n")
    assert result.verdict.violations == []
    assert result.verdict.messages >= result.size
