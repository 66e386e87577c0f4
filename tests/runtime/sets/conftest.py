"""Package swebench's parsers, and the images of the rows in a registry of this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.oci.conftest import faulty  # noqa: F401 - a fixture
from tests.toolbox import python_tools


@pytest.fixture(scope="session")
def swebench_folder() -> Path:
    """Package swebench without what its harness needs besides."""
    return next((python_tools("swebench").parent / "lib").glob("python3*/site-packages"))


@pytest.fixture
def swebench(swebench_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(swebench_folder))
    monkeypatch.syspath_prepend(str(swebench_folder))
    before = {name for name in sys.modules if name.split(".")[0] == "swebench"}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "swebench" and name not in before]:
        del sys.modules[name]
