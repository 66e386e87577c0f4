"""Real source distributions, fetched by pip under their pinned digests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runtime.config import Bubblewrap, GenerateSource, PackagePin, TaskSet
from runtime.errors import UserError
from runtime.task import load_task
from runtime.tasks.generate.package_tasks import generate_package, to_hand_in
from runtime.tasks.generate.sources import fetch
from runtime.tasks.graders import graders
from runtime.tasks.prepare import prepare
from runtime.tasks.verify import VerifyReport, verify

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


PINS = [
    INFLECTION,
    PackagePin(name="funcy", version="2.1", sha256="8979feb3de7120afd1d00e5a8eae810c1942e4bfbc91697151e9ee1e49f79284"),
    PackagePin(
        name="python-slugify",
        version="9.2.0",
        sha256="cee32948083476013804de1667724fb1362dacb71e47b1d5d92adf8db6ee3298",
    ),
    PackagePin(
        name="textdistance", version="4.6.3", sha256="d6dabc50b4ea832cdcf0e1e6021bd0c7fcd9ade155888d79bb6a3c31fce2dc6f"
    ),
    PackagePin(
        name="toolz", version="1.2.0", sha256="9667a038e9d6ecba37995e26cb2f59ec6420b6ad8dd9677de59db9b956b08490"
    ),
]


@pytest.mark.sandbox
def test_a_new_module_beside_a_module_in_no_package_can_be_handed_in() -> None:
    assert to_hand_in(["flat.py"], ()) == ()  # all of the work directory
    assert to_hand_in(["src/flat.py", "src/kit/a.py"], ("src",)) == ("src",)
    assert to_hand_in(["kit/__init__.py", "kit/a.py", "more/b.py"], ()) == ("kit", "more")


def test_a_task_set_of_a_real_package(tmp_path: Path) -> None:
    source = GenerateSource(packages=(INFLECTION,), per_package=4, seed=1, split="train", per_kind_fraction=0.5)
    problems: list[str] = []
    tasks = prepare(TaskSet(name="real", source=source), cache=tmp_path, on_problem=problems.append)
    assert problems == []
    assert len(tasks) == 4
    assert all(task.liverl.source == "real" and task.liverl.runner == "pytest" for task in tasks)


@pytest.mark.sandbox
def test_several_bugs_per_task_in_a_spec(tmp_path: Path) -> None:
    pins = ("wcwidth==0.2.13",)
    source = GenerateSource(
        packages=(INFLECTION,), per_package=2, bugs=2, requirements=pins, seed=1, split="train", per_kind_fraction=0.5
    )
    problems: list[str] = []
    tasks = prepare(TaskSet(name="real", source=source), cache=tmp_path, on_problem=problems.append)
    assert problems == [] and tasks
    for task in tasks:
        assert len(task.liverl.split_key.split("+")) == 2 and "Find all faults" in task.instruction
        assert task.liverl.image is not None and task.liverl.image.endswith(" wcwidth==0.2.13")


@pytest.mark.sandbox
@pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin.name)
def test_tasks_of_a_real_package_are_proven(tmp_path: Path, pin: PackagePin) -> None:
    """One bug per task, and two as ``liverl tasks generate --bugs 2`` makes them."""

    async def work() -> VerifyReport:
        async with graders(Bubblewrap(), state=tmp_path / "state") as (provider, verifier):
            for name, bugs in (("single", 1), ("double", 2)):
                injection = await generate_package(
                    fetch(pin, cache=tmp_path),
                    out=tmp_path / name,
                    name="real",
                    split=None,
                    limit=2,
                    per_kind_fraction=0.5,
                    seed=2,
                    split_seed=0,
                    provider=provider,
                    verifier=verifier,
                    cache=tmp_path,
                    workers=2,
                    on_progress=lambda text: None,
                    bugs_per_task=bugs,
                )
                assert injection.bugs and {len(bug.mutants) for bug in injection.bugs} == {bugs}
            tasks = [load_task(path) for name in ("single", "double") for path in (tmp_path / name).iterdir()]
            return await verify(tasks, provider=provider, verifier=verifier, concurrency=2, memory_mib=1024)

    report = asyncio.run(work())
    wrong = [(task.task, check) for task in report.tasks for check in task.checks if not check.ok]
    assert report.ok, "\n".join(map(str, wrong))
