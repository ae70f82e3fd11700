"""What is rejected goes into the table in statements of a bounded size."""

from __future__ import annotations

import pytest

from swh_sched_runner.backend.events import rejected
from swh_sched_runner.backend.events.rejected import Rejection


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([4, 4, 4], [[4, 4], [4]]),
        ([20], [[20]]),
        ([1, 20, 1], [[1], [20], [1]]),
        ([10, 0, 1], [[10, 0], [1]]),
    ],
)
def test_bodies_are_split_into_statements(
    sizes: list[int], expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejected, "STATEMENT_BYTES", 10)

    parts = rejected._in_parts([Rejection.of("odd", b"x" * size) for size in sizes])

    assert [[one.size for one in part] for part in parts] == expected
