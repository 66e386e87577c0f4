"""Real source distributions, fetched by pip under their pinned digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.config import GeneratedTasks, PackagePin, TaskSet
from runtime.errors import UserError
from runtime.tasks.generate.sources import fetch
from runtime.tasks.prepare import prepare

pytestmark = pytest.mark.network

INFLECTION = PackagePin(
    name="inflection", version="0.5.1", sha256="1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417"
)


def test_fetched_once_and_refused_when_the_digest_is_another(tmp_path: Path) -> None:
    package = fetch(INFLECTION, cache=tmp_path)
    assert package.source_files == ("inflection/__init__.py",)
    assert package.test_files == ("test_inflection.py",)
    assert fetch(INFLECTION, cache=tmp_path).root == package.root
    with pytest.raises(UserError, match=r"inflection==0\.5\.1"):
        fetch(INFLECTION.model_copy(update={"sha256": "0" * 64}), cache=tmp_path)
    assert [path.name for path in (tmp_path / "sdists").iterdir()] == [INFLECTION.sha256]


@pytest.mark.sandbox
def test_tasks_of_a_real_package(tmp_path: Path) -> None:
    source = GeneratedTasks(packages=(INFLECTION,), per_package=4, seed=1, split="train", per_kind_fraction=0.5)
    problems: list[str] = []
    tasks = prepare(TaskSet(name="real", source=source), cache=tmp_path, on_problem=problems.append)
    assert problems == []
    assert len(tasks) == 4
    assert all(task.liverl.source == "real" and task.liverl.runner == "pytest" for task in tasks)
