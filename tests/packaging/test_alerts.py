"""The alerts fire when they should, on metrics that exist, and each has a runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.support.sources import CHECKOUT

FOLDER = CHECKOUT / "deploy/prometheus"
ALERTS = (FOLDER / "alerts.yml").read_text()
TESTS = (FOLDER / "alerts_test.yml").read_text()
RUNBOOKS = (CHECKOUT / "docs/how-to/runbooks.md").read_text()
METRICS = (CHECKOUT / "docs/reference/metrics.md").read_text()
NAMES = re.findall(r"- alert: (\w+)", ALERTS)


def promtool(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if not shutil.which("promtool"):
        skip_or_fail("promtool is not installed (apt install prometheus)")
    return subprocess.run(("promtool", *arguments), cwd=folder, capture_output=True, text=True, timeout=60)


def test_prometheus_reads_the_rules() -> None:
    done = promtool("check", "rules", "alerts.yml", folder=FOLDER)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(NAMES)} rules found" in done.stdout


def test_each_alert_fires_and_is_silent_as_it_should() -> None:
    done = promtool("test", "rules", "alerts_test.yml", folder=FOLDER)

    assert done.returncode == 0, done.stdout + done.stderr
    for name in NAMES:
        assert f"name: {name} fires\n" in TESTS
        assert f"name: {name} is silent\n" in TESTS


@pytest.mark.parametrize(("right", "wrong"), [("} == 0", "} == 2"), ("> 300", "> 3000"), ("[1h])) > 0", "[1h])) >= 0")])
def test_a_wrong_rule_is_noticed(right: str, wrong: str, tmp_path: Path) -> None:
    assert right in ALERTS
    (tmp_path / "alerts.yml").write_text(ALERTS.replace(right, wrong))
    (tmp_path / "alerts_test.yml").write_text(TESTS)

    assert promtool("test", "rules", "alerts_test.yml", folder=tmp_path).returncode != 0


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_has_a_runbook_of_five_lines(name: str) -> None:
    [section] = re.findall(rf"^## {name}\n\n(.*?)(?=\n## |\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL)

    words = re.findall(r"^- \*\*([^*]+)\*\*: ", section, re.MULTILINE)
    assert words == ["Means", "Costs", "Look", "Do", "Over when"]
    assert ALERTS.count(f"runbook: docs/how-to/runbooks.md#{name.lower()}\n") == 1


def test_runbooks_and_rules_use_metrics_that_are_documented() -> None:
    used = set(re.findall(r"swh_sched_runner_\w+", ALERTS + RUNBOOKS))

    assert len(used) >= 10
    assert used <= set(re.findall(r"swh_sched_runner_\w+", METRICS))
    assert re.findall(r"^## (\w+)", RUNBOOKS, re.MULTILINE) == NAMES
