"""A small repository, tasks made of it, and providers of both kinds."""

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.sandboxes import bwrap
from runtime.sandboxes.base import SandboxProvider, SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.process import ProcessProvider
from runtime.task import Task, load_task

needs_bubblewrap = pytest.mark.skipif(bwrap.why_impossible() is not None, reason=str(bwrap.why_impossible()))

CALC = "def add(a, b):\n    return a {} b\n\n\ndef double(a):\n    return add(a, a)\n"
TESTS = """
from calc import add, double


def test_add():
    assert add(2, 3) == 5


def test_zero():
    assert add(0, 0) == 0


def test_double():
    assert double(4) == 8
"""
IDS = ["tests/test_calc.py::test_add", "tests/test_calc.py::test_double", "tests/test_calc.py::test_zero"]

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "tests").mkdir(parents=True)
    (root / "calc.py").write_text(CALC.format("-"))
    (root / "tests" / "test_calc.py").write_text(TESTS)
    return root


@pytest.fixture(params=["zygote", "solo", "process"])
def provider(request: pytest.FixtureRequest, tmp_path: Path, run: Run) -> Iterator[SandboxProvider]:
    """Every way of making sandboxes."""
    made: SandboxProvider
    if request.param == "process":
        made = ProcessProvider(state=tmp_path / "state")
    elif bwrap.why_impossible() is not None:
        pytest.skip(str(bwrap.why_impossible()))
    else:
        made = BubblewrapProvider(state=tmp_path / "state", nested=request.param == "zygote")
    yield made
    run(made.close())
    assert list((tmp_path / "state").iterdir()) == []


@pytest.fixture
def isolated(tmp_path: Path, run: Run) -> Iterator[BubblewrapProvider]:
    made = BubblewrapProvider(state=tmp_path / "state", nested=True)
    yield made
    run(made.close())


@pytest.fixture
def box_request(repository: Path) -> SandboxRequest:
    return SandboxRequest(name="test", lower=repository)


@pytest.fixture
def task(tmp_path: Path, repository: Path) -> Task:
    """``calc.add`` subtracts; the tests are visible to the agent and restored before grading."""
    root = tmp_path / "fix-add"
    shutil.copytree(repository, root / "environment" / "repo")
    (root / "tests" / "files" / "tests").mkdir(parents=True)
    (root / "tests" / "test.sh").write_text("#!/bin/sh\nexit 1\n")
    (root / "tests" / "files" / "tests" / "test_calc.py").write_text(TESTS)
    (root / "instruction.md").write_text("Fix calc.add.\n")
    (root / "task.toml").write_text(
        f"""
        [metadata.liverl]
        fail_to_pass = {json.dumps(IDS[:2])}
        pass_to_pass = {json.dumps(IDS[2:])}
        test_files = ["tests/test_calc.py"]
        """
    )
    return load_task(root)


@pytest.fixture
def other_task(tmp_path: Path, task: Task) -> Task:
    """The same under another name."""
    return load_task(Path(shutil.copytree(task.path, tmp_path / "fix-add-again")))
