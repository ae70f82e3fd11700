"""A copy of the sources, what is built of it, and environments to install that into."""

from __future__ import annotations

import site
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.sources import copy_sources, run


class Distributions(NamedTuple):
    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The sdist, and the wheel that is built from it, as `make dist` makes them."""
    sources = copy_sources(tmp_path_factory.mktemp("sources") / "swh_sched_runner")
    out = tmp_path_factory.mktemp("dist")
    # Without isolation: it would download setuptools, which is there anyhow.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ".", cwd=sources)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., Path]:
    """``install(what, *options)`` into a new environment that has the dependencies and nothing of the project."""

    def into_new_environment(*what: str | Path) -> Path:
        environment = tmp_path / "environment"
        venv.create(environment, symlinks=True)
        python = environment / "bin" / "python"
        purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
        # A path in a .pth file brings the libraries, but not the .pth of this checkout's own editable installation.
        Path(purelib, "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        pip = (sys.executable, "-m", "pip", "--python", python, "--no-input", "--disable-pip-version-check")
        run(*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *what, cwd=tmp_path)
        return environment / "bin"

    return into_new_environment
