"""Nothing that crosses, and nothing beside it, is paid; and the known solution is."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.errors import TrialError
from runtime.grading.make import make_verifier
from runtime.sandboxes.base import SandboxProvider
from runtime.sandboxes.entries import Entry, Link, Removed
from runtime.task import Task, load_task

from .conftest import IMAGE, write
from .crossings import CROSSINGS, Crossing

pytestmark = pytest.mark.sandbox


def make_task(root: Path, crossing: Crossing) -> Task:
    shape = crossing.shape
    test = f"{shape.folder}test_calc.py"
    prefix = "Tests::" if "class Tests" in shape.tests else ""
    image = "" if crossing.by == "unittest" else f'image = "{IMAGE}"'
    files = {
        "environment/repo/calc.py": shape.broken,
        f"environment/repo/{test}": shape.tests,
        **{f"environment/repo/{name}": text for name, text in shape.files.items()},
        "tests/test.sh": "exit 1\n",
        "instruction.md": "Mend it.\n",
        "task.toml": f"""
            [metadata.liverl]
            fail_to_pass = {json.dumps([f"{test}::{prefix}test_new"])}
            pass_to_pass = {json.dumps([f"{test}::{prefix}test_old"])}
            runner = "{crossing.by}"
            {image}
        """,
        **({} if crossing.alone else {"solution/files/calc.py": shape.fixed}),
    }
    write(root, files)
    return load_task(root)


def work_of(crossing: Crossing) -> dict[str, Entry]:
    files: dict[str, Entry] = {f"/app/{name}": text.encode() for name, text in crossing.work.items()}
    files |= {f"/app/{name}": Removed() for name in crossing.removed}
    return files | {f"/app/{name}": Link(target) for name, target in crossing.links.items()}


def play(provider: SandboxProvider, loop: asyncio.Runner, folder: Path, programs: Mapping[str, Crossing]) -> None:
    """Nothing of ``programs`` is paid, and the known solution of each is."""
    config = Bubblewrap(memory_mib=512, verifier_timeout_sec=60.0)
    verifier = make_verifier(config, provider)
    strict = make_verifier(config.model_copy(update={"required_defences": ("solution_user",)}), provider)
    gate = asyncio.Semaphore(3)

    async def one(number: int, name: str) -> None:
        crossing = programs[name]
        task = make_task(folder / str(number), crossing)
        async with gate:
            if crossing.stays:
                with pytest.raises(TrialError, match="required defences not to be had: solution_user"):
                    await strict.grade(task, work_of(crossing))
            else:
                forged = await verifier.grade(task, work_of(crossing))
                assert forged.reward <= 0.0, (name, forged.raw)
            right = await verifier.grade(task, {"/app/calc.py": crossing.shape.fixed.encode()})
            assert right.reward == 1.0, (name, right.raw)

    async def every() -> None:
        await asyncio.gather(*(one(number, name) for number, name in enumerate(programs)))

    loop.run(every())


def test_nothing_that_crosses_is_paid(provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path) -> None:
    play(provider, loop, tmp_path, CROSSINGS)
