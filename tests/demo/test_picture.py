"""How the demo is set up again and again, and what is seen of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.config import load
from swh_sched_runner.demo import forges, git, lister, plan, screen
from swh_sched_runner.demo.loader import visit
from swh_sched_runner.demo.picture import Listing, Observer, Picture, Queue, Visit
from swh_sched_runner.demo.plan import Source
from swh_sched_runner.exc import BrokerUnavailable
from tests.support.repositories import damage, repository

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
FOOTER = ["Ctrl-C stops", "Log: " + "x" * 100]


def active(backend: SchedulerBackend) -> list[str]:
    tasks = backend.search_tasks(task_type=plan.LIST_TYPE, status="next_run_not_scheduled")
    return sorted(task["arguments"]["kwargs"]["source"] for task in tasks)


@pytest.mark.parametrize("own", [True, False])
def test_the_configuration_is_one_that_the_program_takes(tmp_path: Path, own: bool) -> None:
    folder = tmp_path / 'a "strange" name, é'
    file = tmp_path / "config.toml"
    file.write_text(plan.configuration(folder, own=own), encoding="utf-8")

    settings = load(file, {}, {})

    assert settings.data_directory == str(folder)
    assert set(settings.visits) == {"git"}
    assert settings.database.url is None


def test_the_same_sources_give_the_same_tasks(backend: SchedulerBackend) -> None:
    sources = [Source("/a"), Source("https://example.org/b", tells_last_update=False)]

    first, second = plan.prepare(backend, sources), plan.prepare(backend, sources)

    assert [task["id"] for task in first] == [task["id"] for task in second]
    assert active(backend) == ["/a", "https://example.org/b"]


def test_sources_that_are_not_named_any_more_rest_until_they_are_named_again(
    backend: SchedulerBackend, tmp_path: Path
) -> None:
    old, new = Source(str(tmp_path / "old")), Source(str(tmp_path / "new"))
    repository(tmp_path / "old" / "one")
    (task,) = plan.prepare(backend, [old])
    lister.list_origins(backend, old.address)

    plan.prepare(backend, [new])

    assert active(backend) == [new.address]
    assert backend.get_listed_origins().results == []
    (again,) = plan.prepare(backend, [old])
    assert again["id"] == task["id"]
    assert active(backend) == [old.address]
    lister.list_origins(backend, old.address)
    assert len(backend.get_listed_origins().results) == 1


def test_the_samples_are_made_once_and_one_of_them_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "forges"
    forges.make(folder)
    lock = folder / "busy" / "anvil" / ".git" / "refs" / "heads" / "main.lock"
    lock.touch()
    made = (folder / "busy" / "anvil" / ".git").stat().st_ino

    forges.make(folder)

    assert (folder / "busy" / "anvil" / ".git").stat().st_ino == made
    assert not lock.exists()
    assert not (tmp_path / "forges.new").exists()
    looks: Mapping[str, str] = {
        name: git.look(str(folder / forge.name / name)).status for forge in forges.FORGES for name in forge.repositories
    }
    assert len(looks) == 12
    assert [name for name, status in looks.items() if status != "full"] == ["hammer"]


def test_the_observer_sees_every_visit_and_how_intervals_go(backend: SchedulerBackend, tmp_path: Path) -> None:
    one, damaged = repository(tmp_path / "forge" / "one"), damage(repository(tmp_path / "forge" / "damaged"))
    source = Source(str(tmp_path / "forge"))
    (task,) = plan.prepare(backend, [source])
    observer = Observer(backend, [source], depth=_depth({"swh_sched_runner.demo.load_git": 7}))
    lister.list_origins(backend, source.address)
    observer.look()

    for repository_ in (one, damaged):
        visit(backend, repository_.as_uri())
    first = observer.look()
    visit(backend, one.as_uri())
    backend.schedule_task_run(task["id"], "run")
    backend.end_task_run("run", "eventful")
    second = observer.look()

    assert dict(first.visits) == {"eventful": 1, "failed": 1}
    assert dict(second.visits) == {"eventful": 1, "failed": 1, "uneventful": 1}
    assert dict(second.origins) == {"successful": 1, "failed": 1}
    assert (second.recent[0].origin, second.recent[0].outcome) == ("forge/one", "uneventful")
    assert {seen.origin for seen in second.recent} == {"forge/one", "forge/damaged"}
    assert [(queue.name, queue.depth, queue.max_queue_length) for queue in second.queues] == [
        ("swh_sched_runner.demo.list_git", None, 20),
        ("swh_sched_runner.demo.load_git", 7, 20),
    ]
    (listing,) = second.listings
    assert (listing.label, listing.origins, dict(listing.runs)) == ("forge", 2, {"eventful": 1})
    assert list(listing.intervals) == [timedelta(seconds=8), timedelta(seconds=4)]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 20)])
def test_the_picture_fits_the_terminal(width: int, height: int) -> None:
    lines = drawn(picture(), width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_the_picture_shows_queues_runs_intervals_and_visits() -> None:
    text = "\n".join(drawn(picture(), 100, 40))

    for expected in (
        "swh_sched_runner.demo.load_git        3     20",
        "busy             4         9           1       2       3s  8s ↓ 4s ↓ 2s",
        "origins by last visit: 11 successful, 1 failed, 0 not found, 0 never visited",
        "visits since the start: 5 eventful, 0 uneventful, 1 failed, 0 not found",
        "failed  calm/hammer",
        "Ctrl-C stops",
    ):
        assert expected in text


def picture() -> Picture:
    intervals = [timedelta(seconds=seconds) for seconds in (8, 4, 2)]
    runs = {"eventful": 9, "uneventful": 1, "failed": 1, "lost": 1}
    return Picture(
        queues=[Queue("swh_sched_runner.demo.load_git", 3, 20)],
        listings=[Listing("busy", 4, runs, intervals, NOW + timedelta(seconds=3))] * 3,
        origins={"successful": 11, "failed": 1},
        visits={"eventful": 5, "failed": 1},
        recent=[Visit(NOW, "calm/hammer", "failed")] * 50,
    )


def drawn(shown: Picture, width: int, height: int) -> Sequence[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(screen.draw(shown, "demo 00:10", FOOTER, console, NOW))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def _depth(depths: Mapping[str, int]) -> Callable[[str], int]:
    def depth(queue: str) -> int:
        if queue not in depths:
            raise BrokerUnavailable(reason="gone")
        return depths[queue]

    return depth
