"""Right work is paid in whatever words: with the code under test as another user, in two boxes, and in one process."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.verdicts import LookAlikes
from runtime.config import Bubblewrap
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.sandboxes.base import SandboxProvider
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.entries import Entry
from runtime.task import Task, load_task

from . import manners
from .conftest import IMAGE, write
from .spellings import BROKEN, FIXED, IDS, MORE_FILES, TESTS, together

pytestmark = pytest.mark.sandbox

CONFIG = Bubblewrap(memory_mib=1024, verifier_timeout_sec=60.0)


def make_task(root: Path, runner: str) -> Task:
    files = {"calc.py": BROKEN, "tests/test_calc.py": TESTS, **MORE_FILES}
    return _make_task(root, runner, files, FIXED, [*IDS[1:], IDS[0]])


def make_further_task(root: Path, runner: str) -> Task:
    files = {"calc.py": manners.BROKEN, "tests/test_calc.py": manners.TESTS}
    return _make_task(root, runner, files, manners.FIXED, manners.IDS)


def _make_task(root: Path, runner: str, repository: Mapping[str, str], fixed: str, ids: list[str]) -> Task:
    """The last of ``ids`` fails before the repair."""
    files = {
        **{f"environment/repo/{name}": text for name, text in repository.items()},
        "solution/files/calc.py": fixed,
        "tests/test.sh": "exit 1\n",
        "instruction.md": "Mend it.\n",
        "task.toml": f"""
            [metadata.liverl]
            fail_to_pass = {json.dumps(ids[-1:])}
            pass_to_pass = {json.dumps(ids[:-1])}
            runner = "{runner}"
            image = "{IMAGE}"
        """,
    }
    write(root, files)
    return load_task(root)


def inside(work: Mapping[str, Entry]) -> dict[str, Entry]:
    return {f"/app/{name}": entry for name, entry in work.items()}


@pytest.fixture(params=["second user", "two boxes", "look-alikes"])
def how(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[str, SandboxProvider]]:
    if request.param == "two boxes":
        made = BubblewrapProvider(state=tmp_path / "state", second_user=False)
        yield "solution_box", made
        loop.run(made.close())
    elif request.param == "look-alikes":
        yield "canary", LookAlikes(provider)
    else:
        yield "solution_user", provider


def test_right_work_is_paid_in_other_words(
    how: tuple[str, SandboxProvider], loop: asyncio.Runner, tmp_path: Path
) -> None:
    defence, used = how
    runner = "mini" if defence == "solution_user" else "pytest"
    task, further = make_task(tmp_path / "task", runner), make_further_task(tmp_path / "further", "pytest")
    works = [(task, name, work) for name, work in together()]
    works += [(further, name, {"calc.py": text}) for name, text in manners.together()]
    verifier = make_verifier(CONFIG, used)
    gate = asyncio.Semaphore(2)

    async def one(task: Task, name: str, work: Mapping[str, Entry]) -> tuple[str, Verdict]:
        async with gate:
            return name, await verifier.grade(task, inside(work))

    async def every() -> list[tuple[str, Verdict]]:
        try:
            return await asyncio.gather(*(one(*work) for work in works))
        finally:
            await verifier.close()

    for name, verdict in loop.run(every()):
        assert verdict.reward == 1.0 and defence in verdict.defences, (name, verdict.status, verdict.raw)
