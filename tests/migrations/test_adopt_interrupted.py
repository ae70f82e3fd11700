"""An adoption that is killed, kept waiting or started twice ends as one that was not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from swh_sched_runner.db import adopt, migrate
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.exc import AdoptionRefused, AdoptionStopped, SchemaError
from tests.support.origins import mirrors_that_lie
from tests.support.processes.programs import Programs
from tests.support.servers import databases, foreign
from tests.support.wait import until

pytestmark = pytest.mark.slow

BEGUN = " … ".encode()


@pytest.fixture
def url(empty_database_url: str) -> str:
    return empty_database_url


@pytest.fixture
def other(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def program(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """The program, with that database."""
    programs = Programs(tmp_path_factory.mktemp("program"), {"SWH_SCHED_RUNNER_DATABASE__URL": url})
    yield programs
    programs.close()


def value(engine: Engine, query: str) -> object:
    with engine.connect() as conn:
        return conn.execute(text(query)).scalar()


def killed_in_step(url: str, environment: dict[str, str], number: int, delay: random.Random) -> bool:
    """Start an adoption and kill it in its step ``number``; False if it had ended before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "swh_sched_runner", "db", "adopt", "--rename-duplicates"],
        env=environment | {"SWH_SCHED_RUNNER_DATABASE__URL": url},
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout is not None
    said = b""
    while said.count(BEGUN) < number and (more := process.stdout.read(4096)):
        said += more
    try:
        process.wait(delay.uniform(0, 0.05))  # somewhere within the step
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.stdout.close()
    return process.wait(30) == -signal.SIGKILL


@pytest.mark.trial
@pytest.mark.parametrize("seed", [1])
def test_an_adoption_that_is_killed_again_and_again_is_gone_on_with(
    url: str, other: Engine, database_url: str, program: Programs, seed: int
) -> None:
    foreign.build(url, 35, rows=20_000, faults=True)
    chance, kills = random.Random(seed), 0

    while killed_in_step(url, program.environment, chance.randint(1, 12), chance):
        kills += 1

    assert kills >= 2
    missing = foreign.parts(database_url) - foreign.parts(url)
    assert missing == set()
    assert value(other, "select count(*) from pg_index where not indisvalid") == 0
    assert value(other, "select to_regclass('swh_sched_runner_adoption')") is None
    assert mirrors_that_lie(other) == []
    assert value(other, "select count(*) from task where run_id is not null") == 2_001
    marked = "select count(*) from task_run where backend_id ~ '^(double|other)[.]\\d+$'"
    assert value(other, marked) == 3
    assert value(other, "select count(*) from task_run where metadata ? 'backend_id_before_adoption'") == 3
    with other.connect() as conn:
        migrate.require(conn)


def test_a_build_of_an_index_that_was_killed_is_done_anew(url: str, other: Engine, program: Programs) -> None:
    foreign.build(url, 38, rows=20)
    with other.connect() as reader:
        reader.execution_options(isolation_level="REPEATABLE READ")
        reader.execute(text("select 1"))  # an old snapshot, which the build waits for
        building = program.start("db", "adopt")
        builds = "select count(*) from pg_stat_activity where query ~* '^create index' and wait_event_type = 'Lock'"
        until(lambda: value(other, builds))

        building.kill()
        building.wait()

        # The server notices by itself, although the reader is still there.
        until(lambda: not value(other, "select count(*) from pg_stat_activity where query ~* '^create index'"))
        assert value(other, "select count(*) from pg_index where not indisvalid") == 1
        said = program.run("db", "status").stdout
        assert "its adoption from version 38 began at" in said
        assert "reached the step: index" in said
        plan = adopt.examine(other)
        assert plan.begun
        assert "again, an interrupted build left it unfinished" in "\n".join(step.title for step in plan.steps)

    foreign.adopt(other)
    assert value(other, "select count(*) from pg_index where not indisvalid") == 0


def test_a_dry_run_writes_nothing_and_says_what_would_be_done(url: str, program: Programs) -> None:
    foreign.build(url, 34, rows=100, faults=True)
    before = foreign.dumped(url)

    forbidden = program.run("db", "adopt", "--dry-run")
    allowed = program.run("db", "adopt", "--dry-run", "--rename-duplicates")

    assert foreign.dumped(url) == before
    assert (forbidden.returncode, allowed.returncode) == (78, 0)
    assert "can't be adopted: runs whose backend_id a newer run has, of 2 ids: 3 (double, other)" in forbidden.stderr
    assert "default of task_type.max_queue_length: 1000 instead of none" in allowed.stdout
    assert "drop task's reference to priority_ratio (that table stays)" in allowed.stdout
    assert allowed.stdout.endswith("nothing was written (--dry-run)\n")


def test_the_output_names_every_step_with_its_time_and_its_rows(url: str, program: Programs) -> None:
    foreign.build(url, 38, rows=100, faults=True)

    done = program.run("db", "adopt", "--rename-duplicates")
    again, status = program.run("db", "adopt"), program.run("db", "status")

    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert [line.partition("]")[0] for line in steps] == [f"[{n}/{len(steps)}" for n in range(1, len(steps) + 1)]
    assert any(line.endswith("s, 100 rows") and "prepare origins" in line for line in steps)
    assert done.stdout.endswith(f"adopted: the schema is at version {migrate.head()}\n")
    assert (again.returncode, status.returncode) == (78, 0)


def test_a_table_that_is_locked_is_not_waited_for_long_and_costs_nothing(
    url: str, other: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign.build(url, 38, rows=20)
    with other.connect() as holder:
        holder.execute(text("select from task_run"))
        with monkeypatch.context() as impatient:
            impatient.setattr(adopt, "LOCK_TIMEOUT", "50ms")
            impatient.setattr(adopt, "ATTEMPTS", 2)
            with pytest.raises(AdoptionStopped, match=r"stopped at: drop the trigger .* due to lock timeout.*start it"):
                foreign.adopt(other)
        # Others don't queue behind it.
        with other.connect() as reader:
            reader.execute(text("set lock_timeout = '50ms'"))
            reader.execute(text("select from task_run"))

    foreign.adopt(other)


def test_a_lock_that_is_given_back_soon_is_waited_for(url: str, other: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign.build(url, 38, rows=20)
    monkeypatch.setattr(adopt, "LOCK_TIMEOUT", "50ms")
    with ThreadPoolExecutor(1) as pool, other.connect() as holder:
        holder.execute(text("select from task_run"))
        adopting = pool.submit(foreign.adopt, other)
        refused = "select count(*) from pg_stat_database where datname = current_database() and xact_rollback > 3"
        until(lambda: value(other, refused))  # it came more than once

        holder.rollback()

        assert adopting.result(30)


def test_of_several_at_once_one_adopts_and_nobody_waits_for_ever(url: str, other: Engine) -> None:
    foreign.build(url, 38, rows=2_000)

    def ended(change: object) -> object:
        engine = create_engine(url)
        try:
            change(engine)  # type: ignore[operator]
        except SchemaError as error:
            return type(error)
        finally:
            engine.dispose()
        return None

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(ended, [foreign.adopt, foreign.adopt, foreign.adopt, migrate.upgrade]))

    assert sorted(outcomes[:3], key=str) == [AdoptionRefused, AdoptionRefused, None]
    assert outcomes[3] in (None, SchemaError)  # after it, or before
    with other.connect() as conn:
        migrate.require(conn)


def test_tables_that_somebody_changed_meanwhile_are_not_stamped(url: str, other: Engine) -> None:
    foreign.build(url, 38, rows=20)

    def meddle(progress: adopt.Progress) -> None:
        if progress.number == progress.of and progress.done:
            databases.execute(url, "drop index task_ready_idx")

    with pytest.raises(
        AdoptionRefused, match=r"somebody else changed its tables.*still to do: index task_ready_idx on task"
    ):
        adopt.adopt(other, show=lambda plan: None, tell=meddle)

    with other.connect() as conn:
        assert migrate.current(conn) is None
    foreign.adopt(other)


def test_the_backend_behaves_on_an_adopted_database_as_on_a_fresh_one(postgresql_url: str, program: Programs) -> None:
    """A selection; `TEST_ADOPTED=38 pytest tests/backend` runs all."""
    chosen = ["tests/backend/tasks/test_runs.py", "tests/backend/origins/test_listers.py"]

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen],
        cwd=program.environment["PYTHONPATH"],
        env=program.environment | {"TEST_ADOPTED": "38", "TEST_DATABASE_URL": postgresql_url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
