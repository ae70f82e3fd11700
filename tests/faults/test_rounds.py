"""Runners, servers and connections die under load; nothing is lost, nothing has two ids, no limit is passed.

``make faults`` plays more of these rounds. Here the first is that of TEST_SEED, in CI always the same one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from faults import seeds
from faults.seeds import ORDER
from faults.servers import Servers
from tests.support.dice import CI_SEED, dice

ROUNDS = int(os.environ.get("ROUNDS", "10"))
# Faults beside the kinds of crashes that stand here; rounds with workers have none. With a fault in every round they
# would take too long.
FAULTS = (
    *("cut-in-grab", "refused", "none", "none", "unsendable"),
    *("mute", "none", "none", "none", "none"),
)


@pytest.fixture(scope="module")
def first_seed() -> int:
    """A seed with which the order of kinds begins anew, unless one is given."""
    if given := os.environ.get("TEST_SEED"):
        return int(given)
    return CI_SEED // len(ORDER) * len(ORDER) if os.environ.get("CI") else dice().randrange(10_000) * len(ORDER)


# A round that is not through in 150 s is ended by itself, and says what is missing.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_round_of_crashes_loses_nothing_and_exceeds_no_limit(
    servers: Servers, first_seed: int, tmp_path: Path, number: int
) -> None:
    result = seeds.play(servers, tmp_path, first_seed + number, fault=FAULTS[number % len(FAULTS)])

    sys.stdout.write(f"{result.again}\n{result}\n")
    assert result.violations == []
    assert result.verdict.messages >= result.size
