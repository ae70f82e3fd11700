"""A runner dies at one point of a dispatch; the next one finishes what it has unconfirmed."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import points
from faults.points import Point
from faults.rounds import Round
from faults.servers import Servers


@pytest.mark.parametrize("kind", ["points", "visits-points"])
@pytest.mark.parametrize("name", points.NAMES)
def test_what_a_runner_left_unconfirmed_when_it_died_is_sent_under_the_same_ids(
    servers: Servers, tmp_path: Path, name: str, kind: str
) -> None:
    result = Round(servers, tmp_path / "round", 1, 1, kind, points=[Point(name)]).run()

    assert result.verdict.violations == []
    assert result.kills == 1
    if name in (points.AFTER_GRAB, points.AFTER_COMMIT):
        assert result.verdict.sent_twice == 0
    if name == points.AFTER_CONFIRM:  # the broker has all of the batch, and the outbox doesn't know
        assert result.verdict.sent_twice > 0
