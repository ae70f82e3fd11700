"""Randomness whose seed a failure tells."""

from __future__ import annotations

import os
import sys
from random import Random

CI_SEED = 20260301


def dice() -> Random:
    """Another seed each time, always the same one in CI; TEST_SEED names one to see a failure again."""
    given = os.environ.get("TEST_SEED") or (CI_SEED if os.environ.get("CI") else Random().getrandbits(32))
    sys.stdout.write(f"TEST_SEED={given}\n")  # pytest shows it where the test fails
    return Random(int(given))
