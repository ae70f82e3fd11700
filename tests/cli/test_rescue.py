"""``rescue`` for one round: what it prints, and what it refuses."""

from __future__ import annotations

import pytest

from swh_sched_runner.backend import SchedulerBackend
from swh_sched_runner.backend.tasks.lost import Lost
from swh_sched_runner.services.rescuer.marks import MarkSender
from tests.cli.conftest import Run
from tests.support.samples import a_type, run_of_a_task

QUICK = {
    "BETWEEN_LOOKS_SECONDS": "0.01",
    "FLUSH_SECONDS": "0.01",
    "WAITING_SECONDS": "1",
    "DRAIN_SECONDS": "0.01",
}


@pytest.fixture
def run(run: Run, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program, with a broker and no listener."""
    monkeypatch.setenv("SWH_SCHED_RUNNER_BROKER__URL", valkey_url)
    for name, value in QUICK.items():
        monkeypatch.setenv(f"SWH_SCHED_RUNNER_RESCUER__{name}", value)
    monkeypatch.setattr("swh_sched_runner.services.rescuer.rescuer.MARK_SECONDS", 0.1)
    return run


@pytest.fixture
def backend(backend: SchedulerBackend) -> SchedulerBackend:
    """A type with two tasks: the run of one is open, that of the other has ended."""
    backend.create_task_type(a_type())
    run_of_a_task(backend, "open-one")
    run_of_a_task(backend, "ended-one", number=2)
    backend.end_task_run("ended-one", "eventful")
    return backend


@pytest.mark.usefixtures("backend")
def test_without_runs_that_may_be_lost_it_says_so(run: Run, backend: SchedulerBackend) -> None:
    backend.end_task_run("open-one", "eventful")

    done = run("rescue", "--once")

    assert (done.status, done.out) == (0, "  no run is lost, as far as can be told\n")


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("words", [("--dry-run",), ("--once",), ("--run", "1"), ("--run", "open-one", "--dry-run")])
def test_what_cannot_be_judged_is_printed_with_rule_and_reason(run: Run, words: tuple[str, ...]) -> None:
    done = run("rescue", *words)

    assert done.status == 0
    assert done.out.startswith("run  rule  verdict")
    assert "3     undecided: no mark came back from the event queue within " in done.out


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("run_id", "message"),
    [
        ("99", "No run has the id or backend_id 99"),
        ("nosuch", "No run has the id or backend_id nosuch"),
        ("2", "Run 2 has ended: only open runs can be lost"),
        ("ended-one", "Run ended-one has ended"),
    ],
)
def test_a_run_that_is_unknown_or_has_ended_is_named(run: Run, run_id: str, message: str) -> None:
    refused = run("rescue", "--run", run_id)

    assert refused.status == 1
    assert message in refused.err


@pytest.mark.usefixtures("backend")
def test_what_a_look_found_is_one_document_for_programs(run: Run) -> None:
    done = run("rescue", "--dry-run", "--json")

    found = done.json
    [undecided] = found.pop("undecided")
    assert found == {"dry_run": True, "withheld": None, "verdicts": [], "held": []}
    assert (undecided["run"], undecided["rule"]) == (1, "3")
    assert undecided["reason"].startswith("no mark came back from the event queue")


def test_a_verdict_has_its_evidence_in_the_document(
    run: Run, backend: SchedulerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MarkSender, "pass_through", lambda *_: None)  # as if a listener had recorded the marks
    # What was found no longer holds for a run of which the database says so.
    run_of_a_task(backend, "moves", number=3)
    judge = Lost.judge
    monkeypatch.setattr(Lost, "judge", lambda self, verdicts: (judge(self, verdicts[:1]), verdicts[1:])[1])

    done = run("rescue", "--once", "--json")

    first, second = done.json["verdicts"]
    evidence = first.pop("evidence")
    assert first == {
        "run": 1,
        "backend_id": "open-one",
        "task_type": "load-git",
        "rule": "3",
        "verdict": "never delivered",
        "void": False,
    }
    assert (evidence["ready"], evidence["answered"]) == (0, [])
    assert (second["backend_id"], second["void"]) == ("moves", True)


def test_a_service_prints_no_document(run: Run) -> None:
    refused = run("rescue", "--json")

    assert refused.status == 64
    assert "--json needs --once, --dry-run, --force or --run" in refused.err
