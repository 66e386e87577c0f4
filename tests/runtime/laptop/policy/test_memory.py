"""Surveys in memory say word for word what the same repository says in a folder under the real test runner."""

import sys
from pathlib import Path

import pytest

from runtime.grading import testkit
from runtime.laptop.policy.memory import MemoryWorkspace, is_generated
from runtime.laptop.synth import write
from runtime.laptop.synth.repository import build
from runtime.laptop.tools.survey import survey
from runtime.laptop.tools.workspace import FolderWorkspace
from runtime.task import LiverlTable, load_task


@pytest.fixture(autouse=True)
def mounted_testkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a sandbox the testkit is a package of its own name."""
    monkeypatch.syspath_prepend(str(Path(testkit.__file__).parent.parent))


@pytest.mark.parametrize("number", [0, 1, *(pytest.param(number, marks=pytest.mark.deep) for number in range(2, 6))])
def test_memory_and_folder_agree(tmp_path: Path, number: int) -> None:
    repository = build("demonstrations", seed=5, number=number)
    task = load_task(write(repository, "demonstrations", number, out=tmp_path))
    folder = FolderWorkspace(
        str(task.repository), runner="mini", ids=task.expected_ids, sources=task.liverl.source_files
    )
    in_memory = survey(MemoryWorkspace.of(repository))
    assert in_memory == survey(MemoryWorkspace.of_task(task)) == survey(folder)
    assert any(any(stop["repairs"].values()) for stop in in_memory["stops"])


def test_modules_of_the_process_survive(tmp_path: Path) -> None:
    before = dict(sys.modules)
    survey(MemoryWorkspace.of(build("train", seed=1, number=0)))
    assert {name for name in sys.modules if name not in before} == set()


def test_only_generated_repositories_run_here(tmp_path: Path) -> None:
    task = load_task(write(build("train", seed=1, number=1), "train", 1, out=tmp_path))
    foreign = task.model_copy(update={"liverl": LiverlTable(source="toolz", runner="pytest")})
    assert is_generated(task)
    assert not is_generated(foreign)
    with pytest.raises(ValueError, match="only generated"):
        MemoryWorkspace.of_task(foreign)
