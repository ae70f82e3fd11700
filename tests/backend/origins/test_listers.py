"""Listers: creation, look-up, and updates that can't be lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import attr
import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.exc import InvalidArgument, StaleData
from tests.support.origins import NOW


def test_a_lister_is_made_once_and_found_by_name_and_instance(backend: SchedulerBackend) -> None:
    made = backend.get_or_create_lister("gitlab", "gitlab.example")

    assert backend.get_or_create_lister("gitlab", "gitlab.example") == made
    assert backend.get_lister("gitlab", "gitlab.example") == made
    assert backend.get_lister("gitlab", "elsewhere.example") is None
    assert (made.current_state, made.created) == ({}, made.updated)


def test_no_instance_name_is_the_empty_one(backend: SchedulerBackend) -> None:
    made = backend.get_or_create_lister("github")

    assert made.instance_name == ""
    assert backend.get_lister("github") == backend.get_lister("github", "") == made


def test_callers_at_once_make_one_lister(backend: SchedulerBackend) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: backend.get_or_create_lister("pypi", "pypi.org"), range(16)))

    assert len({lister.id for lister in made}) == 1
    assert len(backend.get_listers()) == 1


def test_listers_come_in_order_of_creation_and_unknown_ids_are_dropped(backend: SchedulerBackend) -> None:
    listers = [backend.get_or_create_lister(name) for name in ("zeta", "alpha", "mu")]
    zeta, _, mu = listers

    assert backend.get_listers() == listers
    assert backend.get_listers_by_id([str(mu.id), uuid4(), str(zeta.id)]) == [listers[0], listers[2]]
    assert backend.get_listers_by_id([]) == []


def test_an_update_writes_the_state_and_moves_updated_forward(backend: SchedulerBackend) -> None:
    lister = backend.get_or_create_lister("github")

    changed = attr.evolve(
        lister,
        current_state={"page": 3},
        last_listing_finished_at=NOW,
        first_visits_queue_prefix="first",
        first_visits_scheduled_at=NOW,
    )
    updated = backend.update_lister(changed)

    assert lister.updated
    assert updated.updated
    assert updated.updated > lister.updated
    assert attr.evolve(updated, updated=lister.updated) == changed
    assert backend.get_lister("github") == updated


def test_updates_in_one_transaction_move_updated_forward_too(backend: SchedulerBackend) -> None:
    lister = backend.get_or_create_lister("github")
    timestamps = [lister.updated]
    for _ in range(50):
        lister = backend.update_lister(lister)
        timestamps.append(lister.updated)

    assert timestamps == sorted(set(timestamps))  # type: ignore[type-var]


def test_of_two_updates_of_one_reading_the_second_is_stale(backend: SchedulerBackend) -> None:
    lister = backend.get_or_create_lister("github")
    backend.update_lister(attr.evolve(lister, current_state={"page": 1}))

    with pytest.raises(StaleData, match=r"github.*state not updated"):
        backend.update_lister(attr.evolve(lister, current_state={"page": 2}))

    stored = backend.get_lister("github")
    assert stored
    assert stored.current_state == {"page": 1}


def test_of_updates_at_once_one_is_written(backend: SchedulerBackend) -> None:
    lister = backend.get_or_create_lister("github")

    def update(page: int) -> int | None:
        try:
            backend.update_lister(attr.evolve(lister, current_state={"page": page}))
        except StaleData:
            return None
        return page

    with ThreadPoolExecutor(8) as pool:
        written = [page for page in pool.map(update, range(8)) if page is not None]

    stored = backend.get_lister("github")
    assert stored
    assert [stored.current_state["page"]] == written


def test_a_lister_that_never_was_is_stale(backend: SchedulerBackend) -> None:
    lister = backend.get_or_create_lister("github")

    with pytest.raises(StaleData):
        backend.update_lister(attr.evolve(lister, id=uuid4()))


def test_wrong_arguments_are_named(backend: SchedulerBackend) -> None:
    lister = backend.get_or_create_lister("github")

    with pytest.raises(InvalidArgument, match="name"):
        backend.get_or_create_lister("")
    with pytest.raises(InvalidArgument, match="instance_name"):
        backend.get_or_create_lister("github", "a\0b")
    with pytest.raises(InvalidArgument, match="lister_ids"):
        backend.get_listers_by_id(["no uuid"])
    with pytest.raises(InvalidArgument, match="current_state"):
        backend.update_lister(attr.evolve(lister, current_state=[1]))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="updated"):
        backend.update_lister(attr.evolve(lister, updated=None))
    with pytest.raises(ValueError, match="time zone"):
        attr.evolve(lister, updated=NOW.replace(tzinfo=None) + timedelta(1))
    assert backend.get_listers() == [lister]
