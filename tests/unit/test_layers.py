"""The contracts of pyproject.toml hold, and each of them breaks when it is violated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sources import CHECKOUT, copy_sources

pytestmark = pytest.mark.slow

DOWNWARDS = "Packages import downwards only"
DATABASE = "PostgreSQL is spoken in db and backend alone"
CELERY = "Celery is spoken in broker, worker and demo alone"
FRONT_ENDS = "Front ends format what insight answers"
INSIGHT = "Insight reads through backend and broker only"
WORKER = "What workers import imports nothing else of the package"


def lint_imports(checkout: Path) -> tuple[int, str]:
    """Exit status and output of import-linter on that copy, whatever is installed."""
    command = (Path(sys.executable).with_name("lint-imports"), "--no-cache")
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("layers") / "checkout")


def test_every_contract_is_kept() -> None:
    status, said = lint_imports(CHECKOUT)

    assert status == 0, said


@pytest.mark.parametrize(
    ("place", "violation", "contract"),
    [
        ("db", "import swh_sched_runner.backend", DOWNWARDS),
        ("backend", "import swh_sched_runner.services", DOWNWARDS),
        ("backend", "import swh_sched_runner.broker", DOWNWARDS),
        ("embedded", "import swh_sched_runner.demo", DOWNWARDS),
        ("services", "import swh_sched_runner.cli", DOWNWARDS),
        ("services", "import sqlalchemy.exc", DATABASE),
        ("cli", "def later():\n    import psycopg2", DATABASE),
        ("broker", "from sqlalchemy import text", DATABASE),
        ("services", "from kombu import Connection", CELERY),
        ("cli", "import celery", CELERY),
        ("backend", "import amqp", CELERY),
        ("cli/status", "from swh_sched_runner.backend.inspection import status", FRONT_ENDS),
        ("cli/queue", "import swh_sched_runner.backend.dispatch.limits", FRONT_ENDS),
        ("cli/explain", "from swh_sched_runner.broker.queues import Queues", FRONT_ENDS),
        ("web", "from swh_sched_runner.backend.inspection.status import flow", FRONT_ENDS),
        ("insight", "import swh_sched_runner.services.instruments", INSIGHT),
        ("worker", "import swh_sched_runner.model", WORKER),
        ("worker", "import swh_sched_runner.config", DOWNWARDS),
        ("a_package_without_a_place", "", DOWNWARDS),
    ],
)
def test_a_violation_breaks_its_contract(place: str, violation: str, contract: str, checkout: Path) -> None:
    package = checkout / "swh_sched_runner"
    module = package / place / "violation.py" if (package / place).is_dir() else package / f"{place}.py"
    before = module.read_text() if module.exists() else None
    module.write_text(f"{before or ''}\n{violation}\n")
    try:
        status, said = lint_imports(checkout)
    finally:
        module.unlink() if before is None else module.write_text(before)

    assert status == 1, said
    assert f"{contract} BROKEN" in said
