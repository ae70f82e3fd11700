"""Hostile messages by the hundred between good events: the good ones count, and nothing stops the listener.

``make attack`` plays larger rounds, and each class of hostile messages alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.attack.rounds import MAX_MESSAGE_BYTES, Attack
from faults.servers import Servers
from tests.conftest import skip_or_fail
from tests.support.dice import dice
from tests.support.servers import rabbitmq

HOSTILE, GOOD = 300, 60


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    if reason := rabbitmq.missing():
        skip_or_fail(reason)
    with Servers(tmp_path / "servers", MAX_MESSAGE_BYTES) as servers:
        yield servers


def test_hostile_messages_stop_nothing_and_no_good_event_is_lost(servers: Servers, tmp_path: Path) -> None:
    seed = dice().getrandbits(30)

    result = Attack(servers, tmp_path / "round", seed, HOSTILE, GOOD).run()

    sys.stdout.write(f"make attack ROUNDS=1 SEED={seed} HOSTILE={HOSTILE} GOOD={GOOD}\n{result}\n")
    assert result.violations == []
    assert result.hostile == HOSTILE
    assert result.applied == GOOD
