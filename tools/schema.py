"""The picture of the schema, ``sql/schema.sql``. ``python -m tools.schema`` (`make schema`) draws it anew."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from swh_sched_runner.db import migrate
from swh_sched_runner.db.engine import create_engine
from swh_sched_runner.embedded.postgres import Postgres, available_binaries, major_version
from tests.support.sources import CHECKOUT

FILE = CHECKOUT / "sql" / "schema.sql"
# Each major version of pg_dump words some things differently: it is always drawn by the one of the wheel.
POSTGRESQL = "18"
HEADER = f"""\
-- The schema that the migrations make, drawn by `make schema` (pg_dump of PostgreSQL {POSTGRESQL}).
-- Read it, don't run it.

"""


def draw(directory: Path) -> str:
    """The picture, made with a server of its own in an empty ``directory``."""
    binaries = next(folder for folder in available_binaries() if major_version(folder) == POSTGRESQL)
    with Postgres(directory, binaries, fsync=False) as server:
        engine = create_engine(server.url())
        migrate.upgrade(engine)
        engine.dispose()
        dump = (binaries / "pg_dump", "--schema-only", "--no-owner", "--no-privileges", server.url())
        dumped = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    return HEADER + tidied(dumped)


def tidied(dumped: str) -> str:
    """A dump without what changes by itself or only serves to restore it: versions, tokens, settings, titles."""
    restored = re.compile(r"^(--.*|\\(un)?restrict .*|SET .*;|SELECT pg_catalog\.set_config\(.*\);)\n", re.MULTILINE)
    text = restored.sub("", dumped).replace("public.", "")
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        FILE.write_text(draw(Path(directory)), encoding="utf-8")


if __name__ == "__main__":
    main()
