"""The commands of each how-to, on what the page takes for granted."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from swh_sched_runner.embedded.postgres import Postgres
from tests.conftest import skip_or_fail
from tests.support.docs.blocks import blocks
from tests.support.docs.pages import Page, libpq
from tests.support.servers.rabbitmq import free_ports
from tests.support.sources import CHECKOUT

pytestmark = pytest.mark.slow

PAGES = {path.stem: path.read_text() for path in sorted((CHECKOUT / "docs/how-to").glob("*.md"))}
HOW_TOS = {name: text for name, text in PAGES.items() if any(block.is_commands for block in blocks(text))}
NEEDED = ("curl", "psql")

UP = """
<!-- in the background -->
```console
$ swh-sched-runner up
… ready …
```
"""
LOOK = """
```sh
swh-sched-runner task-type add look --backend-name fleet.look --default-interval 1d
```
"""


@dataclass(frozen=True)
class Stage:
    """What is done before the commands of a page, and after them to see what they did. Written as pages are."""

    before: str = ""
    after: str = ""
    database: bool = False  # an empty one, called scheduler


STAGES = {
    "adopt": Stage(
        database=True,
        before="""
```sh
python -c "from tests.support.servers import foreign; foreign.build('postgresql:///scheduler', 38, rows=100)"
```
""",
        after="""
```sh
swh-sched-runner db adopt
swh-sched-runner db status
swh-sched-runner db check
swh-sched-runner db compat
```
""",
    ),
    "demo": Stage(
        # In a terminal it has a log in its folder, as the page says.
        before="""
```sh
TERM=xterm python -c 'import pty; pty.spawn(["swh-sched-runner", "demo"])' &
```

<!-- until shown -->
```console
$ swh-sched-runner --data-dir ~/.local/share/swh-sched-runner/demo task show 1
…
1 eventful …
…
```
"""
    ),
    "monitoring": Stage(
        before="""
```sh
export SWH_SCHED_RUNNER_WEB__PORT=9461
```
"""
        + UP
    ),
    "own-servers": Stage(
        database=True,
        before="""
```sh
export SWH_SCHED_RUNNER_DATABASE__URL=postgresql:///scheduler
```
""",
    ),
    "retention": Stage(
        before=UP + LOOK,
        after="""
```sh
swh-sched-runner task-type show look | grep -E '^keep runs +90d$'
```
""",
    ),
    "queues": Stage(
        before=UP + LOOK,
        after="""
```sh
swh-sched-runner queue list | grep -E '^fleet.look +0 +500 .*'
swh-sched-runner queue resume fleet.look
```
""",
    ),
    "troubleshooting": Stage(
        database=True,
        # Bytes that are no UTF-8.
        before=r"""
```sh
export SWH_SCHED_RUNNER_DATABASE__URL=postgresql:///scheduler
swh-sched-runner db init
psql scheduler -c "insert into rejected_event (reason, body) values ('not JSON', '\xff00')"
```
""",
    ),
    "why-is-it-not-running": Stage(
        database=True,
        before="""
```sh
export SWH_SCHED_RUNNER_DATABASE__URL=postgresql:///scheduler
swh-sched-runner db init
psql scheduler -c 'alter sequence task_id_seq restart with 17'
```
"""
        + UP
        + LOOK
        + """
```sh
swh-sched-runner task add look somewhere
cat >fleet.py <<'END'
import json
from pathlib import Path

from celery import Celery
from swh_sched_runner.worker import configure

running = json.loads((Path.home() / ".local/share/swh-sched-runner/running.json").read_text())
app = configure(Celery("fleet", broker=running["broker_url"]))
END
```

<!-- in the background -->
```console
$ celery -A fleet worker --concurrency 1 --loglevel info
… ready.
```
""",
    ),
}


@pytest.mark.parametrize("name", HOW_TOS)
def test_the_commands_of_a_how_to_do_as_it_says(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    stage = STAGES.get(name, Stage())
    for program in NEEDED:
        if f"\n{program} " in HOW_TOS[name] + stage.before and not shutil.which(program):
            skip_or_fail(f"{program} is not installed")
    [port] = free_ports(1)
    replacements = {
        "postgresql://scheduler@db.example.org/scheduler": "postgresql:///scheduler",
        "localhost:9461": f"localhost:{port}",
        "WEB__PORT=9461": f"WEB__PORT={port}",
    }
    server: Postgres | None = request.getfixturevalue("own_postgres") if stage.database else None

    with Page(tmp_path, libpq(server) if server else {}, replacements) as page:
        for text in (stage.before, HOW_TOS[name], stage.after):
            page.follow(text)
        page.still_running()
