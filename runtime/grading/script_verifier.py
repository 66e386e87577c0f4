"""Verdicts of tasks from elsewhere: Harbor's contract, ``tests/test.sh`` and the reward file that it writes."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.config import Environment
from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import Selection, select
from runtime.grading.base import TAMPERED_REWARD, Verdict
from runtime.grading.canary import Canary, spoil_all
from runtime.grading.difference import collect, put
from runtime.grading.verifier import Plan, SandboxVerifier
from runtime.sandboxes.base import Mount, SandboxProvider, SandboxRequest
from runtime.task import Task


class ScriptVerifier(SandboxVerifier):
    """For tasks without expected test ids."""

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        super().__init__(config, provider)
        self._canaries: dict[Path, Canary] = {}
        self._calibrating: dict[Path, asyncio.Lock] = {}

    async def _prepare(self, task: Task, timeout_sec: float) -> tuple[Canary, tuple[str, ...]]:
        return await self._script_canary(task, timeout_sec), ()

    def _with_tests(self, task: Task) -> SandboxRequest:
        return self._request(task, mounts=(Mount(task.tests, "/tests"),))

    async def _run(self, plan: Plan, selection: Selection) -> Verdict:
        task, canary, timeout_sec = plan.task, plan.canary, plan.timeout_sec
        if self._provider.capabilities.isolation == "none":
            why = f"{task.id}: tests/test.sh names /tests and /logs, which exist in isolated sandboxes only"
            raise TrialError(Termination.VERIFIER_CRASHED, why)
        reward, raw = await self._script(task, selection, {}, timeout_sec)
        tampered = False
        if reward > 0 and canary.files:
            try:
                forged, raw["canary"] = await self._script(task, selection, canary.files, timeout_sec)
            except TrialError as error:
                if error.termination is not Termination.VERIFIER_CRASHED:
                    raise
                forged, raw["canary"] = 0.0, str(error)  # a script that writes no reward when tests fail
            # A score for parts of the tests may be above 0 for honest work: the part that could not be spoiled.
            tampered = forged >= reward
        return Verdict(
            reward=TAMPERED_REWARD if tampered else reward,
            status="tampered" if tampered else "solved" if reward == 1.0 else "unsolved",
            outcomes={},
            defences=plan.defences,
            seconds=time.monotonic() - plan.start,
            raw=json.dumps(raw).encode(),
        )

    async def _script(
        self, task: Task, selection: Selection, spoiled: Mapping[str, bytes], timeout_sec: float
    ) -> tuple[float, dict[str, Any]]:
        """Reward of one run of ``tests/test.sh`` in a fresh sandbox, and what it wrote. ``spoiled`` replaces tests."""
        request = self._with_tests(task)
        with tempfile.TemporaryDirectory(prefix="liverl-tests-") as folder:
            if spoiled:
                copy = Path(folder) / "tests"
                shutil.copytree(task.tests, copy, symlinks=True)
                for name, content in spoiled.items():
                    (copy / name).write_bytes(content)
                request = replace(request, mounts=(Mount(copy, "/tests"),))
            sandbox = await self._provider.start(request)
            try:
                await put(sandbox, selection.files, workdir=request.workdir)
                await sandbox.upload({"/logs/verifier/.keep": b""})
                result = await sandbox.exec(["bash", "/tests/test.sh"], timeout_sec=timeout_sec)
                written = await sandbox.download(["/logs/verifier"], max_bytes=1 << 20)
            finally:
                await sandbox.stop()
        raw: dict[str, Any] = {name: content.decode(errors="replace") for name, content in written.items()}
        raw |= {"stdout": result.stdout.decode(errors="replace"), "stderr": result.stderr.decode(errors="replace")}
        return read_reward(task.id, written), raw

    async def _script_canary(self, task: Task, timeout_sec: float) -> Canary:
        """Spoiled tests of a foreign task, if its script heeds them: what its own solution scores with them must be
        less than without. Found out once per task; a task without a solution has no canary.
        """
        async with self._calibrating.setdefault(task.path, asyncio.Lock()):
            if task.path not in self._canaries:
                canary = _scripts(task, secrets.randbits(64))
                if canary.files and not await self._heeds(task, canary, timeout_sec):
                    canary = Canary({}, ())
                self._canaries[task.path] = canary
            return self._canaries[task.path]

    async def _heeds(self, task: Task, canary: Canary, timeout_sec: float) -> bool:
        solution = task.path / "solution"
        if not (solution / "solve.sh").is_file():
            return False
        request = self._request(task, mounts=(Mount(solution, "/solution"),))
        sandbox = await self._provider.start(request)
        try:
            await sandbox.exec(["bash", "/solution/solve.sh"], timeout_sec=task.config.agent.timeout_sec)
            selection = select(task, await collect(task, sandbox))
        except TimeoutError:
            return False
        finally:
            await sandbox.stop()
        try:
            honest, _ = await self._script(task, selection, {}, timeout_sec)
        except (TrialError, TimeoutError):
            return False
        try:
            spoiled, _ = await self._script(task, selection, canary.files, timeout_sec)
        except TrialError as error:
            return error.termination is Termination.VERIFIER_CRASHED and honest > 0  # no reward when tests fail
        except TimeoutError:
            return False
        return spoiled < honest


def _scripts(task: Task, seed: int) -> Canary:
    """Spoiled copies of the Python tests that a foreign task's script runs."""
    spoiled: dict[str, bytes] = {}
    for path in sorted(task.tests.rglob("*.py")):
        if path.name.startswith("test_") or path.name.endswith("_test.py"):
            content = spoil_all(path.read_bytes(), seed)
            if content is not None:
                spoiled[path.relative_to(task.tests).as_posix()] = content
    return Canary(spoiled, ())


def read_reward(task_id: str, written: Mapping[str, bytes]) -> float:
    """Harbor's reward files: ``reward.json`` before ``reward.txt``; finite and within [0, 1]. Raises ``TrialError``."""
    try:
        if "/logs/verifier/reward.json" in written:
            table = json.loads(written["/logs/verifier/reward.json"])
            value = table["reward"] if "reward" in table else next(iter(table.values()))
        else:
            value = float(written["/logs/verifier/reward.txt"])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is no number")
        if not math.isfinite(value) or not 0 <= value <= 1:
            raise ValueError(f"{value!r} is not within [0, 1]")
    except KeyError as error:
        raise TrialError(Termination.VERIFIER_CRASHED, f"{task_id}: tests/test.sh wrote no reward") from error
    except (ValueError, TypeError, StopIteration, AttributeError, RecursionError) as error:
        raise TrialError(Termination.VERIFIER_CRASHED, f"{task_id}: bad reward file: {error}") from error
    return float(value)
