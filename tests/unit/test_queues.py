"""What queues of task types are called, and the limit of one that several share."""

from __future__ import annotations

import pytest

from swh_sched_runner.config import least_limit, queue_name


def test_tasks_with_a_priority_have_a_queue_that_the_template_names() -> None:
    assert queue_name("my.git", "urgent:{backend_name}", priority=False) == "my.git"
    assert queue_name("my.git", "urgent:{backend_name}", priority=True) == "urgent:my.git"


@pytest.mark.parametrize(("limits", "least"), [([], None), ([None], None), ([None, 7, 3], 3), ([0, None], 0)])
def test_a_queue_that_several_share_has_the_least_of_their_limits(limits: list[int | None], least: int | None) -> None:
    assert least_limit(limits) == least
