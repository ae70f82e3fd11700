"""The fleet of the README, on a database and a RabbitMQ."""

from __future__ import annotations

from pathlib import Path

import pytest

from swh_sched_runner.embedded.postgres import Postgres
from tests.support.docs.pages import Page, libpq
from tests.support.sources import CHECKOUT

pytestmark = pytest.mark.slow

BROKER_SHOWN = "amqp://guest:guest@localhost:5672//"

# The workers run both tasks: one found something, the other one nothing.
AFTER = """
<!-- until shown -->
```console
$ swh-sched-runner task show 1
…
1 eventful …
$ swh-sched-runner task show 2
id …
…
status completed
…
2 uneventful …
```
"""


def test_the_fleet_of_the_readme_runs_its_tasks(tmp_path: Path, own_postgres: Postgres, rabbitmq_url: str) -> None:
    with Page(tmp_path, libpq(own_postgres), {BROKER_SHOWN: rabbitmq_url}) as page:
        page.follow((CHECKOUT / "README.md").read_text())
        page.follow(AFTER)
        page.still_running()
