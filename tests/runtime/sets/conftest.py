"""Package swebench's parsers, and the images of the rows in a registry of this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.oci.conftest import faulty  # noqa: F401 - a fixture
from tests.toolbox import made, run

_SWEBENCH = ("swebench==5.0.2", "unidiff==0.7.5")


@pytest.fixture(scope="session")
def swebench_folder() -> Path:
    """Package swebench without what its harness needs besides."""

    def make(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        run(*pip, *_SWEBENCH)

    return made("swebench", _SWEBENCH, make)


@pytest.fixture
def swebench(swebench_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(swebench_folder))
    monkeypatch.syspath_prepend(str(swebench_folder))
    before = {name for name in sys.modules if name.split(".")[0] == "swebench"}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "swebench" and name not in before]:
        del sys.modules[name]
