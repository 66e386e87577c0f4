"""Nobody is paid for work in other languages that mends nothing, and whoever mends it is, however it looks.

All programs run in ``benchmarks/verdicts.py --languages``; here those of the runners that are quick, and of the others
one for each way in which a verdict was once wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.sandboxes.base import SandboxProvider
from tests.runtime.suites.test_verdicts import loop, provider

from .languages import PROGRAMS, SUBJECTS, task_of

__all__ = ["loop", "provider"]
pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]
QUICK = ("node", "rspec", "phpunit")
ALSO = {"go": ("expected",), "cargo": ("assertions",), "ctest": ("expected",)}


@pytest.mark.parametrize("runner", [*QUICK, *ALSO])
def test_honest_work_is_paid_and_no_program_is(
    runner: str, provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path
) -> None:
    subject = SUBJECTS[runner]
    task = task_of(subject, tmp_path / "calc")
    verifier = make_verifier(Bubblewrap(memory_mib=1024, pids=512, verifier_timeout_sec=120.0), provider)
    programs = [one for one in PROGRAMS if one.runner == runner and one.family in ALSO.get(runner, (one.family,))]

    async def judged() -> dict[str, Verdict]:
        works = {f"{one.family}: {one.name}": one.files for one in programs}
        works |= subject.honest if runner in QUICK else {}
        return {
            name: await verifier.grade(task, {f"/app/{path}": text.encode() for path, text in files.items()})
            for name, files in works.items()
        }

    verdicts = loop.run(judged())
    honest = {name: verdict for name, verdict in verdicts.items() if name in subject.honest}
    assert all(verdict.reward == 1 and "canary" in verdict.defences for verdict in honest.values()), honest
    assert not {name for name, verdict in verdicts.items() if name not in honest and verdict.reward > 0}
