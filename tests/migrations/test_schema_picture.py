"""sql/schema.sql shows what the migrations make."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import schema

pytestmark = pytest.mark.slow


def test_the_picture_shows_the_schema_that_the_migrations_make(tmp_path: Path) -> None:
    drawn = schema.draw(tmp_path / "postgresql")

    assert schema.FILE.read_text(encoding="utf-8") == drawn, "the schema has changed: run `make schema`"
    assert "CREATE TABLE task_run (" in drawn
