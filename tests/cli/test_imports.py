"""Short commands stay short: what they import is most of what they take."""

from __future__ import annotations

import subprocess
import sys

import pytest

from swh_sched_runner.backend.inspection import check
from swh_sched_runner.cli.db import GRACE_SECONDS

pytestmark = pytest.mark.slow

CODE = """
import atexit, sys
sys.argv = ["swh-sched-runner", *{arguments!r}]
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from swh_sched_runner.__main__ import main
main()
"""
COMPLETION = {
    "_SWH_SCHED_RUNNER_COMPLETE": "bash_complete",
    "COMP_WORDS": "swh-sched-runner task li",
    "COMP_CWORD": "2",
}
DRIVERS = {"alembic", "amqp", "celery", "kombu", "psycopg2", "redis", "sqlalchemy"}


def imported(environ: dict[str, str], *arguments: str, **variables: str) -> list[str]:
    """The modules that a command has imported when it ends."""
    code = CODE.format(arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ | variables, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--help"], {}),
        (["run", "--help"], {}),
        (["db", "check", "--help"], {}),
        (
            [],
            {
                "_SWH_SCHED_RUNNER_COMPLETE": "bash_complete",
                "COMP_WORDS": "swh-sched-runner task li",
                "COMP_CWORD": "2",
            },
        ),
    ],
    ids=["help", "run --help", "db check --help", "completion"],
)
def test_help_and_completion_import_no_driver(
    environ: dict[str, str], arguments: list[str], variables: dict[str, str]
) -> None:
    modules = imported(environ, *arguments, **variables)

    assert not DRIVERS & {*modules}
    assert len(modules) < 400  # 345 in 2026-11: 0.15 s


def test_a_list_needs_the_database_alone(environ: dict[str, str], database_url: str) -> None:
    modules = imported(environ, "task", "list", SWH_SCHED_RUNNER_DATABASE__URL=database_url)

    assert DRIVERS & {*modules} == {"psycopg2", "sqlalchemy"}
    assert len(modules) < 650  # 0.4 s


def test_what_help_says_of_the_grace_period_is_so() -> None:
    assert check.GRACE_PERIOD.total_seconds() == GRACE_SECONDS
