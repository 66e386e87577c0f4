"""Kept sets: made once, whole or not at all, and again when the description changes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.config import SynthSource, TaskSet
from runtime.tasks.prepare import in_own_loop, kept, prepare


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


def test_sets_that_differ_in_their_name_alone_are_stored_once(tmp_path: Path) -> None:
    source = SynthSource(count=2, seed=3, split="held_out")
    greedy, sampled = (
        prepare(TaskSet(name=name, source=source), cache=tmp_path, on_problem=print) for name in ("greedy", "sampled")
    )
    assert [task.path for task in greedy] == [task.path for task in sampled]
    assert len([path for path in (tmp_path / "tasks").iterdir() if path.is_dir()]) == 1
