"""The fixtures that are shipped work in a project of somebody else's, as the document says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from swh_sched_runner import pytest_plugin
from tests.support.sources import CHECKOUT

pytestmark = pytest.mark.slow

PAGE = (CHECKOUT / "docs/how-to/test-your-code.md").read_text()


def test_a_project_tests_its_code_with_the_shipped_fixtures(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n# (\w+\.py)\b.*\n((?s:.*?))^```$", PAGE, re.MULTILINE)
    assert {name for name, _ in blocks} == {"conftest.py", "test_lister.py", "my_tasks.py", "test_my_tasks.py"}
    for name, text in blocks:
        (tmp_path / name).write_text(text)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:pytest_celery"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_document_names_every_fixture_with_its_scope() -> None:
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE, re.MULTILINE))

    shipped = {
        name: "session" if found._fixture_function_marker.scope == "session" else "test"
        for name, found in vars(pytest_plugin).items()
        if isinstance(found, type(pytest_plugin.scheduler_backend))
    }

    assert documented == shipped


def test_a_worker_that_does_not_come_up_is_shown(
    scheduler_worker: pytest_plugin.StartWorker,
) -> None:
    with pytest.raises(pytest.fail.Exception, match="no_such_module"):
        scheduler_worker("no_such_module", "q")


def test_waiting_for_what_never_comes_ends(scheduler_run_until: pytest_plugin.RunUntil) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"not within 0\.1 s"):
        scheduler_run_until(lambda: False, 0.1)
