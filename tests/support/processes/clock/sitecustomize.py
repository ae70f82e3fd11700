"""A machine whose clock is wrong: with this folder in PYTHONPATH a process's time is CLOCK_SECONDS ahead."""

from __future__ import annotations

import os
import time

_ahead = float(os.environ["CLOCK_SECONDS"])
_true_time = time.time


def _time() -> float:
    return _true_time() + _ahead


time.time = _time
