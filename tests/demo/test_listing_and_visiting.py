"""The lister records what is there, the loader what visits find; the scheduler is told by both."""

from __future__ import annotations

import shutil
from pathlib import Path

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.demo import forges
from swh_sched_runner.demo.lister import LISTER, list_origins
from swh_sched_runner.demo.loader import visit
from swh_sched_runner.model import LastVisitStatus, ListedOrigin, OriginVisitStats
from tests.support.repositories import damage, repository


def listed(backend: SchedulerBackend, source: Path | str, enabled: bool | None = True) -> dict[str, ListedOrigin]:
    lister = backend.get_lister(LISTER, str(source))
    assert lister is not None
    return {o.url: o for o in backend.get_listed_origins(lister.id, enabled=enabled).results}


def stats(backend: SchedulerBackend, url: str) -> OriginVisitStats:
    (found,) = backend.origin_visit_stats_get([(url, "git")])
    return found


def test_a_listing_is_eventful_while_repositories_are_new_or_change(backend: SchedulerBackend, tmp_path: Path) -> None:
    one = repository(tmp_path / "one")
    repository(tmp_path / "two.git", bare=True)

    first, same = list_origins(backend, str(tmp_path)), list_origins(backend, str(tmp_path))
    forges.commit(one, "change")
    changed = list_origins(backend, str(tmp_path))
    repository(tmp_path / "three")
    more = list_origins(backend, str(tmp_path))

    assert first == {"status": "success", "eventful": True, "listed": 2, "new": 2, "changed": 0}
    assert same == {"status": "success", "eventful": False, "listed": 2, "new": 0, "changed": 0}
    assert changed == {"status": "success", "eventful": True, "listed": 2, "new": 0, "changed": 1}
    assert more == {"status": "success", "eventful": True, "listed": 3, "new": 1, "changed": 0}
    assert {url: o.last_update is not None for url, o in listed(backend, tmp_path).items()} == {
        (tmp_path / name).as_uri(): True for name in ("one", "two.git", "three")
    }


def test_a_source_that_does_not_tell_sees_no_changes(backend: SchedulerBackend, tmp_path: Path) -> None:
    one = repository(tmp_path / "one")

    list_origins(backend, str(tmp_path), tells_last_update=False)
    forges.commit(one, "change")
    again = list_origins(backend, str(tmp_path), tells_last_update=False)

    assert again["eventful"] is False
    assert listed(backend, tmp_path)[one.as_uri()].last_update is None


def test_a_url_lists_itself(backend: SchedulerBackend) -> None:
    url = "https://example.org/x.git"

    assert [list_origins(backend, url, False)["eventful"] for _ in range(2)] == [True, False]
    assert list(listed(backend, url)) == [url]


def test_a_directory_that_is_gone_fails_the_listing_and_keeps_what_was_listed(
    backend: SchedulerBackend, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    one = repository(source / "one")
    list_origins(backend, str(source))
    shutil.rmtree(source)

    result = list_origins(backend, str(source))

    assert result == {"status": "failed", "error": f"{source} can't be listed: No such file or directory"}
    assert list(listed(backend, source)) == [one.as_uri()]


def test_a_listing_says_when_it_finished_and_what_it_found(backend: SchedulerBackend, tmp_path: Path) -> None:
    list_origins(backend, str(tmp_path))

    lister = backend.get_lister(LISTER, str(tmp_path))
    assert lister is not None
    assert lister.current_state == {"repositories": 0, "cut_short": None}
    assert lister.last_listing_finished_at is not None


def test_a_visit_is_eventful_when_refs_changed_since_the_last_one(backend: SchedulerBackend, tmp_path: Path) -> None:
    one = repository(tmp_path / "one")

    results = [visit(backend, one.as_uri()), visit(backend, one.as_uri())]
    forges.commit(one, "change")
    results.append(visit(backend, one.as_uri()))

    assert results == [{"status": "success", "eventful": eventful, "refs": 2} for eventful in (True, False, True)]
    assert stats(backend, one.as_uri()).last_visit_status is LastVisitStatus.successful
    assert stats(backend, one.as_uri()).successive_visits == 3


def test_an_empty_repository_is_eventful_once(backend: SchedulerBackend, tmp_path: Path) -> None:
    empty = repository(tmp_path / "empty", commits=0)

    assert [visit(backend, empty.as_uri())["eventful"] for _ in range(2)] == [True, False]


def test_a_damaged_repository_is_given_up_after_three_visits_until_it_is_listed(
    backend: SchedulerBackend, tmp_path: Path
) -> None:
    damaged = damage(repository(tmp_path / "damaged"))
    list_origins(backend, str(tmp_path))

    results = [visit(backend, damaged.as_uri()) for _ in range(3)]

    assert {result["status"] for result in results} == {"failed"}
    assert "does not appear to be a git repository" in results[0]["error"]
    assert stats(backend, damaged.as_uri()).last_visit_status is LastVisitStatus.failed
    assert listed(backend, tmp_path) == {}
    list_origins(backend, str(tmp_path))
    assert list(listed(backend, tmp_path)) == [damaged.as_uri()]


def test_a_vanished_repository_stays_listed_until_its_visits_say_so(backend: SchedulerBackend, tmp_path: Path) -> None:
    one = repository(tmp_path / "one")
    list_origins(backend, str(tmp_path))
    visit(backend, one.as_uri())
    snapshot = stats(backend, one.as_uri()).last_snapshot
    shutil.rmtree(one)

    listing = list_origins(backend, str(tmp_path))
    still = listed(backend, tmp_path)
    results = [visit(backend, one.as_uri()) for _ in range(3)]

    assert (listing["listed"], listing["eventful"]) == (0, False)
    assert list(still) == [one.as_uri()]
    assert {result["status"] for result in results} == {"uneventful"}
    assert stats(backend, one.as_uri()).last_visit_status is LastVisitStatus.not_found
    assert stats(backend, one.as_uri()).last_snapshot == snapshot
    assert listed(backend, tmp_path) == {}
