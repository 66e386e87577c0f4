"""Nothing that is taken for another thing is paid, with the code under test apart and in one process; and the known
solution is."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.grading.base import Verdict
from runtime.grading.id_verifier import IdVerifier
from runtime.grading.make import make_verifier
from runtime.grading.verifier import Apart
from runtime.sandboxes.base import SandboxProvider
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.task import Task, load_task

from .conftest import IMAGE, write
from .confusions import ATTACKS, SHAPES, Shape

pytestmark = pytest.mark.sandbox


def make_task(root: Path, shape: Shape, runner: str, *, solution: bool = True) -> Task:
    test = f"{shape.folder}test_calc.py"
    files = {
        "environment/repo/calc.py": shape.broken,
        f"environment/repo/{test}": shape.tests,
        **{f"environment/repo/{name}": text for name, text in shape.files.items()},
        "tests/test.sh": "exit 1\n",
        "instruction.md": "Mend it.\n",
        "task.toml": f"""
            [metadata.liverl]
            fail_to_pass = {json.dumps([f"{test}::test_new"])}
            pass_to_pass = {json.dumps([f"{test}::test_old"])}
            runner = "{runner}"
            image = "{IMAGE}"
        """,
        **({"solution/files/calc.py": shape.fixed} if solution else {}),
    }
    write(root, files)
    return load_task(root)


RUNNERS = ("mini", "pytest")
"""In turn: what differs between them is not what is confused here."""


def test_nothing_is_taken_for_another_thing(provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path) -> None:
    verifier = make_verifier(Bubblewrap(memory_mib=512, verifier_timeout_sec=60.0), provider)

    async def every() -> None:
        for number, (name, work) in enumerate(ATTACKS.items()):
            task = make_task(tmp_path / str(number), SHAPES[name], RUNNERS[number % 2])
            forged = await verifier.grade(task, {f"/app/{path}": text.encode() for path, text in work.items()})
            assert (forged.reward, forged.status) == (0.0, "unsolved"), (name, forged.raw)
            right = await verifier.grade(task, {"/app/calc.py": SHAPES[name].fixed.encode()})
            assert right.reward == 1.0, (name, right.raw)
            assert {"solution_user", "solution_box"} & set(forged.defences) & set(right.defences), name

    loop.run(every())


def test_a_place_that_the_first_proof_did_not_come_by_is_asked_for_again(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may draw what they do: that is no reason to deny the right work, nor to pay for any."""
    shape, wrong = SHAPES["what holds anything"], ATTACKS["what holds anything"]["calc.py"]
    task = make_task(tmp_path / "task", shape, "mini")
    verifier = IdVerifier(Bubblewrap(memory_mib=512, verifier_timeout_sec=60.0), provider)

    async def main() -> list[float]:
        apart = await verifier._kept_apart(task, 60.0)
        assert apart is not None and apart.places

        async def unlucky(*_: object) -> Apart:
            return replace(apart, places=())

        monkeypatch.setattr(verifier, "_kept_apart", unlucky)
        works = (shape.fixed, wrong, shape.broken)
        return [(await verifier.grade(task, {"/app/calc.py": text.encode()})).reward for text in works]

    assert loop.run(main()) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("boxes", ["one", "two"])
def test_a_test_may_look_into_prose_that_the_work_has_changed(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path, boxes: str
) -> None:
    """And not into other files of its, from which a test might run something."""
    reads = "import calc\n\n\ndef test_new():\n    assert calc.add(2, 3) == 5\n\n\ndef test_old():\n"
    reads += "    assert open('/app/NEWS.md').read().startswith('News') and calc.news() == 'News'\n"
    minus, plus = (
        f"def add(a, b): return a {sign} b\ndef news(): return open('/app/NEWS.md').read()[:4]\n" for sign in "-+"
    )
    task = make_task(tmp_path / "task", Shape(reads, minus, plus, files={"NEWS.md": "News\n"}), "mini")
    used = provider if boxes == "one" else BubblewrapProvider(state=tmp_path / "state", second_user=False)
    verifier = make_verifier(Bubblewrap(memory_mib=512, verifier_timeout_sec=60.0), used)

    async def main() -> Verdict:
        try:
            return await verifier.grade(task, {"/app/calc.py": plus.encode(), "/app/NEWS.md": b"News: mended\n"})
        finally:
            if used is not provider:
                await used.close()

    verdict = loop.run(main())
    assert verdict.reward == 1.0 and {"solution_user", "solution_box"} & set(verdict.defences), verdict.raw


def test_nor_is_a_helper_where_all_share_a_process(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path
) -> None:
    verifier = make_verifier(Bubblewrap(memory_mib=512, verifier_timeout_sec=60.0), provider)

    async def every() -> None:
        for number, (name, work) in enumerate(ATTACKS.items()):
            if "calc.py" not in work:
                task = make_task(tmp_path / str(number), SHAPES[name], RUNNERS[number % 2], solution=False)
                forged = await verifier.grade(task, {f"/app/{path}": text.encode() for path, text in work.items()})
                assert forged.reward <= 0.0, (name, forged.raw)

    loop.run(every())
