"""The tutorial, from its first command to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.docs.pages import Page
from tests.support.sources import CHECKOUT

pytestmark = pytest.mark.slow

# The intervals of the page, and those that are waited for here.
FASTER = {" 5s": " 2s", " 10s": " 4s", " 20s": " 8s"}

# What the page asks for below its last command: the worker goes on with what it finds.
AFTER_THE_CRASH = """
<!-- in the background -->
```console
$ swh-sched-runner up
… ready …
```

<!-- until shown -->
```console
$ swh-sched-runner task add watch-file $PWD/notes.txt --policy oneshot --priority high
$ swh-sched-runner task show 3
id …
…
status        completed
…
```
"""


def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    with Page(tmp_path, replacements=FASTER) as page:
        page.follow((CHECKOUT / "docs/tutorial.md").read_text())
        page.follow(AFTER_THE_CRASH)
        page.still_running()
