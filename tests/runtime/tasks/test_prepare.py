"""Kept sets: made once, whole or not at all, and again when the description changes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.config import Bubblewrap, Docker, Environment, GenerateSource, PackagePin, SynthSource, TaskSet
from runtime.tasks.graders import in_own_loop
from runtime.tasks.kept import description, kept
from runtime.tasks.prepare import prepare


def test_a_set_is_made_once_whatever_asks_for_it(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(out: Path) -> None:
        calls.append(out)
        (out / "task").mkdir()

    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: kept(tmp_path, "synth", "one", make), range(8)))
    assert len(calls) == 1 and len(set(folders)) == 1
    assert (folders[0] / "task").is_dir()
    assert kept(tmp_path, "synth", "two", make) != folders[0]
    assert len(calls) == 2


def test_a_failed_set_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        (out / "task").mkdir()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        kept(tmp_path, "synth", "one", fail)
    assert [path.name for path in (tmp_path / "tasks").iterdir() if path.is_dir()] == []


def test_a_running_loop_is_no_obstacle() -> None:
    async def inner() -> int:
        await asyncio.sleep(0)
        return 7

    async def outer() -> int:
        return in_own_loop(inner())

    assert asyncio.run(outer()) == 7


PIN = PackagePin(name="x", version="1", sha256="0" * 64)


def test_a_set_is_found_again_by_all_that_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = tmp_path / "generator"
    generator.mkdir()
    (generator / "a.py").write_text("x = 1\n")
    source = GenerateSource(packages=(PIN,), per_package=4, seed=1, split="train", per_kind_fraction=0.5)

    def said(name: str = "x", *, environment: Environment | None = None, **changes: object) -> str:
        task_set = TaskSet(name=name, source=source.model_copy(update=changes))
        return description(task_set, generator=generator, environment=environment or Bubblewrap())

    first = said()
    assert first == said() == said(environment=Bubblewrap(warm_sandboxes=7, agent_timeout_sec=5))
    asked: dict[str, object] = {
        "packages": (PIN.model_copy(update={"version": "2"}),),
        "requirements": ("roman==5.1",),
        "seed": 2,
        "split": "held_out",
        "split_seed": 1,
        "per_package": 5,
        "per_kind_fraction": 0.25,
        "bugs": 2,
        "per_function": 7,
        "tests_per_task": 11,
        "slow_test_sec": 0.25,
    }
    assert set(asked) | {"type"} == set(GenerateSource.model_fields)
    others = [
        *(said(environment=None, **{field: value}) for field, value in asked.items()),
        said("y"),
        said(environment=Docker(base_image="a")),
        said(environment=Docker(base_image="b")),
        said(environment=Bubblewrap(memory_mib=512)),
        said(environment=Bubblewrap(verifier_timeout_sec=5)),
    ]
    (generator / "a.py").write_text("x = 2\n")
    others.append(said())
    monkeypatch.setattr("sys.version_info", (3, 99, 0))
    others.append(said())
    assert len({first, *others}) == 1 + len(others)


def test_sets_that_differ_in_their_name_alone_are_stored_once(tmp_path: Path) -> None:
    source = SynthSource(count=2, seed=3, split="held_out")
    greedy, sampled = (
        prepare(TaskSet(name=name, source=source), cache=tmp_path, on_problem=print) for name in ("greedy", "sampled")
    )
    assert [task.path for task in greedy] == [task.path for task in sampled]
    assert len([path for path in (tmp_path / "tasks").iterdir() if path.is_dir()]) == 1
