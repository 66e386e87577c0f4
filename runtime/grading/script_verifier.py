"""Verdicts of tasks from elsewhere: Harbor's contract, ``tests/test.sh`` and the reward file that it writes."""

from __future__ import annotations

import json
import math
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from runtime.config import Environment
from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import Selection, select
from runtime.grading.base import TAMPERED_REWARD, Verdict
from runtime.grading.canary import Canary, spoil_all
from runtime.grading.difference import put
from runtime.grading.once import Once
from runtime.grading.task_scripts import last_words, run_script
from runtime.grading.verifier import Plan, SandboxVerifier, of_the_task
from runtime.sandboxes.base import TASK_FILES, ArtifactsRefused, Mount, SandboxProvider, SandboxRequest
from runtime.task import Task


class ScriptVerifier(SandboxVerifier):
    """For tasks without expected test ids."""

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        super().__init__(config, provider)
        self._canaries: Once[Path, Canary] = Once()
        self._best_scores: Once[Path, float | None] = Once()

    async def close(self) -> None:
        await self._canaries.close()
        await self._best_scores.close()
        await super().close()

    async def _prepare(self, task: Task, timeout_sec: float) -> tuple[Canary, tuple[str, ...]]:
        if self._provider.capabilities.isolation == "none":
            why = f"{task.id}: tests/test.sh names /tests and /logs, which exist in isolated sandboxes only"
            raise TrialError(Termination.VERIFIER_CRASHED, why)
        return await self._script_canary(task, timeout_sec), ()

    def _with_tests(self, task: Task, folder: Path) -> SandboxRequest:
        return self._request(task, mounts=(Mount(folder, f"{TASK_FILES}/tests"),))

    async def _best(self, task: Task, timeout_sec: float) -> float | None:
        """What the task's script gives its own solution, found out once; None where that cannot be had."""

        async def make() -> float | None:
            if task.solve_script is None:
                return None
            try:
                score, _ = await self._script(task, select(task, await self._solution(task)), {}, timeout_sec)
            except (TrialError, TimeoutError) as error:
                of_the_task(error)
                return None
            return score

        return await self._best_scores.get(task.path, make)

    async def _run(self, plan: Plan, selection: Selection) -> Verdict:
        task, canary, timeout_sec = plan.task, plan.canary, plan.timeout_sec
        score, raw = await self._script(task, selection, {}, timeout_sec)
        tampered = forged_all = False
        best = await self._best(task, timeout_sec) if score > 0 else None
        if score > 0 and canary.files:
            try:
                forged, raw["canary"] = await self._script(task, selection, canary.files, timeout_sec)
            except TrialError as error:
                if error.termination is not Termination.VERIFIER_CRASHED:
                    raise
                forged, raw["canary"] = 0.0, str(error)  # a script that writes no reward when tests fail
            # Below the solution's score this may be honest: the part that could not be spoiled, or look-alikes that
            # wrong work passes. It is not paid, and not punished either.
            forged_all = forged >= score
            tampered = forged_all and best is not None and score >= best
        reward = 0.0 if score <= 0 or forged_all else as_reward(task.id, score, best=best)
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
        """Score of one run of ``tests/test.sh`` in a fresh sandbox, and what it wrote. ``spoiled`` replaces tests."""
        with tempfile.TemporaryDirectory(prefix="liverl-tests-") as folder:
            tests = task.tests
            if spoiled:
                tests = Path(folder) / "tests"
                shutil.copytree(task.tests, tests, symlinks=True)
                for name, content in spoiled.items():
                    (tests / name).write_bytes(content)
            sandbox = await self._provider.start(self._with_tests(task, tests))
            try:
                workdir = task.config.environment.workdir
                await put(sandbox, selection.files, workdir=workdir)
                await sandbox.upload({"/logs/verifier/.keep": b""})
                env = task.config.verifier.env
                result = await run_script(sandbox, "/tests/test.sh", env=env, timeout_sec=timeout_sec)
                written = await sandbox.download(list(REWARD_FILES), max_bytes=1 << 20)
            except ArtifactsRefused as refused:
                raise TrialError(Termination.VERIFIER_CRASHED, f"{task.id}: its reward file: {refused}") from refused
            finally:
                await sandbox.stop()
        raw: dict[str, Any] = {name: content.decode(errors="replace") for name, content in written.items()}
        raw |= {"stdout": result.stdout.decode(errors="replace"), "stderr": result.stderr.decode(errors="replace")}
        try:
            return read_score(task.id, written), raw
        except TrialError as error:
            said = last_words(raw["stdout"], raw["stderr"])
            why = f"{error}; test.sh said last: {said}" if said else str(error)
            raise TrialError(error.termination, why) from error

    async def _script_canary(self, task: Task, timeout_sec: float) -> Canary:
        """Spoiled tests of a foreign task, if its script heeds them: what its own solution scores with them must be
        less than without. Found out once per task; a task without a solution has no canary.
        """

        async def make() -> Canary:
            canary = _scripts(task, secrets.randbits(64))
            heeded = bool(canary.files) and await self._heeds(task, canary, timeout_sec)
            return canary if heeded else Canary({}, ())

        return await self._canaries.get(task.path, make)

    async def _heeds(self, task: Task, canary: Canary, timeout_sec: float) -> bool:
        honest = await self._best(task, timeout_sec)
        if honest is None:
            return False
        selection = select(task, await self._solution(task))
        try:
            spoiled, _ = await self._script(task, selection, canary.files, timeout_sec)
        except (TrialError, TimeoutError) as error:
            of_the_task(error)
            crashed = isinstance(error, TrialError) and error.termination is Termination.VERIFIER_CRASHED
            return crashed and honest > 0  # no reward when tests fail
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


REWARD_FILES: Final = ("/logs/verifier/reward.json", "/logs/verifier/reward.txt")
"""The first that is there counts."""


def read_score(task_id: str, written: Mapping[str, bytes]) -> float:
    """What Harbor reads of the reward files (0.25.0, ``harbor/verifier/verifier.py``): ``reward.json``, a table of
    finite numbers (``true`` is 1), of which ``reward`` counts or else the first; or ``reward.txt``, one finite number.
    Raises ``TrialError`` for what Harbor does not read either."""
    table, text = (written.get(name) for name in REWARD_FILES)
    try:
        if table is not None:
            values = json.loads(table.decode())
            if not isinstance(values, dict) or not values:
                raise ValueError(f"{str(values)[:80]} is no table with a reward")
            numbers = {name: _number(value) for name, value in values.items()}
            return numbers["reward"] if "reward" in numbers else next(iter(numbers.values()))
        if text is not None:
            return _number(float(text.decode()))
    except (ValueError, OverflowError, RecursionError) as error:
        raise TrialError(Termination.VERIFIER_CRASHED, f"{task_id}: bad reward file: {error}") from error
    raise TrialError(Termination.VERIFIER_CRASHED, f"{task_id}: tests/test.sh wrote no reward")


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"{str(value)[:80]!r} is no number")
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)


def as_reward(task_id: str, score: float, *, best: float | None) -> float:
    """A score of a task's own script as a reward within [0, 1]. Scripts count as they like: where the task's own
    solution scores above 1 (per cent, points), its score is the whole. Raises ``TrialError`` for a score above 1 when
    nothing says what the whole is: no grade."""
    if score > 1 and best is None:
        why = f"{task_id}: scored {score:g}, and no solution's score says what of"
        raise TrialError(Termination.VERIFIER_CRASHED, why)
    return min(max(score / max(1.0, best if best is not None else 1.0), 0.0), 1.0)
