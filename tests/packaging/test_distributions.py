"""What is built and installed holds all that it needs, above all the SQL files, which lie outside of the package."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

from swh_sched_runner import __version__
from tests.packaging.conftest import Distributions
from tests.support.sources import CHECKOUT, copy_sources, run

pytestmark = pytest.mark.slow

LOAD_EVERY_STATEMENT = """
import json
import swh_sched_runner
from swh_sched_runner.db import migrate, queries

folder = queries.sql_folder()

def concerns(folder, path=""):
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from concerns(entry, f"{path}{entry.name}/")
        else:
            yield path + entry.name.removesuffix(".sql")

statements = {name + ".sql": len(queries.Queries(name).statements) for name in concerns(folder / "queries")}
migrations = [queries.read("migrations", file.name) for file in (folder / "migrations").iterdir()]
print(json.dumps({
    "package": swh_sched_runner.__file__,
    "statements": statements,
    "migrations": len(migrations),
    "head": migrate.head(),
}))
"""


def sql_files() -> dict[str, bytes]:
    """What a program needs of sql/: path below sql/, and content."""
    files = [*CHECKOUT.glob("sql/queries/**/*.sql"), *CHECKOUT.glob("sql/migrations/*.sql")]
    return {str(file.relative_to(CHECKOUT / "sql")): file.read_bytes() for file in files}


def assert_every_statement_loads(python: str | Path, *, cwd: Path, package: Path) -> None:
    """``python`` finds the project in ``package``, and all of its SQL with it."""
    report = json.loads(run(python, "-c", LOAD_EVERY_STATEMENT, cwd=cwd))
    assert Path(report["package"]) == package / "__init__.py"
    written = {
        path.removeprefix("queries/"): len(re.findall(rb"^-- name: ", content, re.MULTILINE))
        for path, content in sql_files().items()
        if path.startswith("queries/")
    }
    assert report["statements"] == written
    assert report["migrations"] == len(sql_files()) - len(written)
    assert report["head"]


def files_below(folder: Path, without: str = "") -> dict[str, bytes]:
    """Path below the folder, and content."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != without)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_the_wheel_holds_the_sql_files_of_the_checkout_and_no_others(distributions: Distributions) -> None:
    with ZipFile(distributions.wheel) as wheel:
        below_sql = [name for name in wheel.namelist() if name.startswith("swh_sched_runner/sql/")]
        held = {name.removeprefix("swh_sched_runner/sql/"): wheel.read(name) for name in below_sql}

    assert held == sql_files()
    assert held


def test_the_wheel_holds_every_module_and_nothing_beside_the_package(distributions: Distributions) -> None:
    with ZipFile(distributions.wheel) as wheel:
        names = wheel.namelist()

    modules = {str(file.relative_to(CHECKOUT)) for file in CHECKOUT.glob("swh_sched_runner/**/*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert "swh_sched_runner/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"swh_sched_runner"}


def test_the_sdist_holds_the_whole_of_sql_and_what_a_packager_needs(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    wanted = [CHECKOUT / "LICENSE", CHECKOUT / "Makefile"]
    for folder in ("sql", "deploy", "tests", "faults", "tools", "bench"):
        wanted += [file for file in (CHECKOUT / folder).rglob("*") if file.is_file() and file.suffix != ".pyc"]
    wanted = [file for file in wanted if CHECKOUT / "bench/.baseline" not in file.parents]
    assert {str(file.relative_to(CHECKOUT)) for file in wanted} <= names


def test_an_installed_wheel_finds_its_statements_and_has_its_command(
    distributions: Distributions, install: Callable[..., Path], tmp_path: Path
) -> None:
    binaries = install(distributions.wheel)

    package = next(binaries.parent.glob("lib/python*/site-packages/swh_sched_runner"))
    assert_every_statement_loads(binaries / "python", cwd=tmp_path, package=package)
    assert __version__ in run(binaries / "swh-sched-runner", "--version", cwd=tmp_path)
    run(binaries / "swh-sched-runner", "deploy", "files", "deploy", cwd=tmp_path)
    assert files_below(tmp_path / "deploy") == files_below(CHECKOUT / "deploy", without="README.md")


@pytest.mark.parametrize("mode", ["lenient", "strict", "compat"])
def test_an_editable_installation_finds_its_statements(mode: str, install: Callable[..., Path], tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")

    binaries = install("--config-settings", f"editable_mode={mode}", "--editable", sources)

    # A strict one is a folder of links, so that a module that isn't packaged can't be imported by accident.
    package = next(sources.glob("build/*/swh_sched_runner")) if mode == "strict" else sources / "swh_sched_runner"
    assert_every_statement_loads(binaries / "python", cwd=tmp_path, package=package)


def test_a_plain_checkout_finds_its_statements(tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")

    assert_every_statement_loads(sys.executable, cwd=sources, package=sources / "swh_sched_runner")
