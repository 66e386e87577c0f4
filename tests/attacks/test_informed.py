"""Who has read the verifier is not paid either, with the second user and with the look-alike tests alone."""

import asyncio
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.sandboxes.base import SandboxProvider
from runtime.task import Task, load_task

from .conftest import IMAGE, attack, collect, write
from .informed import ATTACKS, HONEST, KINDS, Kind, module

pytestmark = pytest.mark.sandbox

Judge = Callable[[Kind, str, str], Verdict]


def make_task(root: Path, kind: Kind, runner: str) -> Task:
    ids = [f"tests/test_calc.py::{kind.prefix}test_{name}" for name in ("add", "double", "zero")]
    files = {
        "environment/repo/calc.py": kind.broken,
        "environment/repo/README.md": "A calculator.\n",
        "tests/files/tests/test_calc.py": kind.tests,
        "tests/test.sh": "exit 1\n",
        "solution/files/calc.py": kind.fixed,
        "instruction.md": "Fix calc.add.\n",
        "task.toml": f"""
            [metadata.liverl]
            fail_to_pass = {json.dumps(ids[:2])}
            pass_to_pass = {json.dumps(ids[2:])}
            test_files = ["tests/test_calc.py"]
            runner = "{runner}"
            image = "{IMAGE}"
        """,
        **({"environment/repo/tests/test_calc.py": kind.visible} if kind.visible is not None else {}),
    }
    write(root, files)
    return load_task(root)


@pytest.fixture
def judge(provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path) -> Judge:
    verifier = make_verifier(Bubblewrap(memory_mib=512, verifier_timeout_sec=60.0), provider)

    def run(kind: Kind, runner: str, program: str) -> Verdict:
        task = make_task(tmp_path / "task", kind, runner)
        script = f"mkdir -p /app/tests; python3 -c {shlex.quote(program)}"

        async def main() -> Verdict:
            return await verifier.grade(task, await attack(provider, task, script, lambda box: collect(task, box)))

        return loop.run(main())

    return run


def cases(programs: dict[str, tuple[str, tuple[str, ...]]]) -> list[tuple[str, str]]:
    return [(name, kind) for name, (_, kinds) in programs.items() for kind in kinds]


def runner_of(kind: str) -> str:
    return "pytest" if kind in ("classes", "statistics") else "mini"


@pytest.mark.parametrize(("name", "kind"), cases(ATTACKS))
def test_no_attack_is_paid(judge: Judge, name: str, kind: str) -> None:
    verdict = judge(KINDS[kind], runner_of(kind), ATTACKS[name][0])
    assert verdict.reward <= 0.0, (verdict.defences, verdict.raw)


def honest_cases() -> list[tuple[str, str, str]]:
    """The plain runner knows no classes."""
    runners = {"classes": ("pytest",)}
    return [(name, kind, by) for name, kind in cases(HONEST) for by in runners.get(kind, ("mini", "pytest"))]


@pytest.mark.parametrize(("name", "kind", "runner"), honest_cases())
def test_honest_work_is_paid(judge: Judge, name: str, kind: str, runner: str) -> None:
    program = module(KINDS[kind].fixed) + HONEST[name][0]
    verdict = judge(KINDS[kind], runner, program)
    assert (verdict.reward, verdict.status) == (1.0, "solved"), (verdict.defences, verdict.raw)
