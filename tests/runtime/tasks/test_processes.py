"""Packages that are worked on by processes of their own: the same tasks, and errors that arrive as they were."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from runtime.config import GenerateSource, PackagePin, PlainProcess, TaskSet
from runtime.errors import MachineError, UserError
from runtime.tasks.generate.processes import _error, at_once, generate_apart
from runtime.tasks.generated import package_set

PINS = tuple(PackagePin(name=f"shop-{letter}", version="1", sha256=letter * 64) for letter in "ab")
SOURCE = GenerateSource(packages=PINS, per_package=1, seed=3, split=None, tests_per_task=5)


def test_packages_take_turns_where_there_are_few_processors() -> None:
    assert [at_once(SOURCE, cores) for cores in (1, 2, 3, 4, 32)] == [1, 1, 1, 2, 2]
    many = SOURCE.model_copy(update={"packages": PINS * 20})
    assert at_once(many, 32) == 16


def test_an_error_comes_back_as_it_was() -> None:
    told = _error("MachineError", "pip cannot fetch it", "a network")
    assert isinstance(told, MachineError) and told.fix == "a network"
    assert isinstance(_error("UserError", "wrong hash", ""), UserError)


@pytest.mark.sandbox
@pytest.mark.network
def test_side_by_side_the_tasks_are_those_of_one_after_the_other(shop: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for pin in PINS:
        shutil.copytree(shop, cache / "sdists" / pin.sha256)
    said: list[str] = []
    apart = tmp_path / "apart"
    asyncio.run(
        generate_apart(
            SOURCE,
            out=apart,
            name="set",
            environment=PlainProcess(),
            cache=cache,
            cores=4,
            on_progress=said.append,
        )
    )
    whole = package_set(
        TaskSet(name="set", source=SOURCE), SOURCE, cache=cache, environment=PlainProcess(), say=said.append
    )

    def files(folder: Path) -> dict[str, bytes]:
        paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "set.json")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    assert files(apart) == files(whole)
    assert {path.name.rpartition("-")[0] for path in apart.iterdir()} == {"shop-a", "shop-b"}
    assert any(text.startswith("shop-b: ") for text in said)
