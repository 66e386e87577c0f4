"""Verdicts of tasks from elsewhere: Harbor's contract, ``tests/test.sh`` and the reward file that it writes.

Where the sandbox has a second user and the task's own solution scores the same that way, every program that the script
starts is another user's (``sandboxes/guest/shims.py``), and the script's own shell alone can write the reward file. Its
judgement may still be led astray: by a runner that shares its process with the code under test, and so by the exit
code that the shell believes. Against that there are look-alikes, no more.
"""

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
from runtime.grading.shell_values import may_run_text, scripts_of
from runtime.grading.task_scripts import last_words, run_script
from runtime.grading.verifier import Apart, Plan, SandboxVerifier, of_the_task
from runtime.sandboxes import bwrap
from runtime.sandboxes.base import TASK_FILES, ArtifactsRefused, Mount, Sandbox, SandboxProvider, SandboxRequest
from runtime.sandboxes.guest import shims
from runtime.sandboxes.zygote import START_SEC
from runtime.task import Task

_TWO_USERS = ("bubblewrap", "docker")
"""Isolations whose boxes have a supervisor of ours, which keeps the second user's process."""
_SHIMS = f"{bwrap.LIVERL}/guest/shims.py"
_STAND_IN = f"{shims.FOLDER}/.stand-in"
REWARD_FILES: Final = ("/logs/verifier/reward.json", "/logs/verifier/reward.txt")
"""The first that is there counts."""


class ScriptVerifier(SandboxVerifier):
    """For tasks without expected test ids."""

    APART_DEFENCES = ("reward_file",)
    FILES: tuple[str, ...] = REWARD_FILES
    """What a script leaves for its score."""
    MAX_BYTES = 1 << 20
    """Of these files together."""

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        super().__init__(config, provider)
        self._canaries: Once[Path, Canary] = Once()
        self._best_scores: Once[Path, float | None] = Once()
        self._apart: Once[Path, bool] = Once()

    async def close(self) -> None:
        await self._canaries.close()
        await self._apart.close()
        await self._best_scores.close()
        await super().close()

    async def _prepare(self, task: Task, timeout_sec: float) -> tuple[Canary, Apart | None]:
        if self._provider.capabilities.isolation == "none":
            why = f"{task.id}: tests/test.sh names /tests and /logs, which exist in isolated sandboxes only"
            raise TrialError(Termination.VERIFIER_CRASHED, why)
        apart = await self._kept_apart(task, timeout_sec)
        return await self._script_canary(task, timeout_sec, apart=apart), Apart((), None) if apart else None

    def _apart_defences(self, task: Task, apart: Apart | None = None) -> tuple[str, ...]:
        """A shell that evaluates what programs print can be made to write the reward by them: such a script is run
        apart too, and the record does not say that nobody else writes."""
        if self._provider.capabilities.isolation not in _TWO_USERS or may_run_text(scripts_of(task.tests)):
            return ()
        return self.APART_DEFENCES

    def _with_tests(self, task: Task, folder: Path, *, apart: bool) -> SandboxRequest:
        return self._request(task, mounts=(Mount(folder, f"{TASK_FILES}/tests"),), second_user=apart)

    async def _kept_apart(self, task: Task, timeout_sec: float) -> bool:
        """Whether the script's programs can be another user's: found out once, by what it gives the known solution."""
        if not self._provider.capabilities.second_user or self._provider.capabilities.isolation not in _TWO_USERS:
            return False

        async def make() -> bool:
            best = await self._best(task, timeout_sec)
            if best is None or best <= 0:
                return False
            try:
                right = select(task, await self._solution(task))
                score, _ = await self._script(task, right, {}, timeout_sec, apart=True)
            except (TrialError, TimeoutError) as error:
                of_the_task(error)
                return False
            return score == best

        return await self._apart.get(task.path, make)

    async def _best(self, task: Task, timeout_sec: float) -> float | None:
        """What the task's script gives its own solution, found out once; None where that cannot be had."""

        async def make() -> float | None:
            if task.solve_script is None:
                return None
            try:
                right = select(task, await self._solution(task))
                score, _ = await self._script(task, right, {}, timeout_sec, apart=False)
            except (TrialError, TimeoutError) as error:
                of_the_task(error)
                return None
            return score

        return await self._best_scores.get(task.path, make)

    async def _run(self, plan: Plan, selection: Selection) -> Verdict:
        task, canary, timeout_sec, apart = plan.task, plan.canary, plan.timeout_sec, plan.apart is not None
        score, raw = await self._script(task, selection, {}, timeout_sec, apart=apart)
        tampered = forged_all = False
        best = await self._best(task, timeout_sec) if score > 0 else None
        if score > 0 and canary.files:
            try:
                forged, raw["canary"] = await self._script(task, selection, canary.files, timeout_sec, apart=apart)
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
            outcomes=raw.pop("outcomes", {}),
            defences=plan.defences,
            seconds=time.monotonic() - plan.start,
            raw=json.dumps(raw).encode(),
        )

    async def _script(
        self, task: Task, selection: Selection, spoiled: Mapping[str, bytes], timeout_sec: float, *, apart: bool
    ) -> tuple[float, dict[str, Any]]:
        """Score of one run of ``tests/test.sh`` in a fresh sandbox, and what it wrote. ``spoiled`` replaces tests.
        apart: its programs are the second user's."""
        with tempfile.TemporaryDirectory(prefix="liverl-tests-") as folder:
            tests = task.tests
            if spoiled:
                tests = Path(folder) / "tests"
                shutil.copytree(task.tests, tests, symlinks=True)
                for name, content in spoiled.items():
                    (tests / name).write_bytes(content)
            sandbox = await self._provider.start(self._with_tests(task, tests, apart=apart))
            try:
                workdir = task.config.environment.workdir
                # The script's shell owns these files and may not read them: it takes nothing from there.
                await put(sandbox, selection.files, workdir=workdir, mode=0o044 if apart else 0o644)
                await sandbox.upload({"/logs/verifier/.keep": b""})
                if apart:
                    await _give_to_second_user(task, sandbox)
                env, programs = task.config.verifier.env, shims.FOLDER if apart else ""
                result = await run_script(
                    sandbox, "/tests/test.sh", env=env, timeout_sec=timeout_sec, programs=programs
                )
                written = await sandbox.download(list(self.FILES), max_bytes=self.MAX_BYTES)
                written = {name: content for name, content in written.items() if content or not apart}
            except ArtifactsRefused as refused:
                raise TrialError(
                    Termination.VERIFIER_CRASHED, f"{task.id}: {', '.join(self.FILES)}: {refused}"
                ) from refused
            finally:
                await sandbox.stop()
        raw: dict[str, Any] = {name: content.decode(errors="replace") for name, content in written.items()}
        raw |= {"stdout": result.stdout.decode(errors="replace"), "stderr": result.stderr.decode(errors="replace")}
        try:
            return await self._score(task, written, raw), raw
        except TrialError as error:
            said = last_words(raw["stdout"], raw["stderr"])
            why = f"{error}; test.sh said last: {said}" if said else str(error)
            raise TrialError(error.termination, why) from error

    async def _score(self, task: Task, written: Mapping[str, bytes], raw: dict[str, Any]) -> float:
        """What the files say; ``raw``: kept for the record, to be added to. Raises ``TrialError``."""
        return read_score(task.id, written)

    async def _script_canary(self, task: Task, timeout_sec: float, *, apart: bool) -> Canary:
        """Spoiled tests of a foreign task, if its script heeds them: what its own solution scores with them must be
        less than without. Found out once per task; a task without a solution has no canary.
        """

        async def make() -> Canary:
            canary = _scripts(task, secrets.randbits(64))
            heeded = bool(canary.files) and await self._heeds(task, canary, timeout_sec, apart=apart)
            return canary if heeded else Canary({}, ())

        return await self._canaries.get(task.path, make)

    async def _heeds(self, task: Task, canary: Canary, timeout_sec: float, *, apart: bool) -> bool:
        honest = await self._best(task, timeout_sec)
        if honest is None:
            return False
        selection = select(task, await self._solution(task))
        try:
            spoiled, _ = await self._script(task, selection, canary.files, timeout_sec, apart=apart)
        except (TrialError, TimeoutError) as error:
            of_the_task(error)
            crashed = isinstance(error, TrialError) and error.termination is Termination.VERIFIER_CRASHED
            return crashed and honest > 0  # no reward when tests fail
        return spoiled < honest


async def _give_to_second_user(task: Task, sandbox: Sandbox) -> None:
    """From here on a script that finds ``shims.FOLDER`` first on its path starts the second user's programs."""
    made = await sandbox.exec(["python3", "-I", "-S", "-B", _SHIMS, *REWARD_FILES], cwd="/", timeout_sec=START_SEC)
    own = await sandbox.download([_STAND_IN], max_bytes=1 << 16)  # nobody's word for it but the box's supervisor's
    if made.exit_code != 0 or not own.get(_STAND_IN):
        said = made.stderr.decode(errors="replace").strip()[-300:] or "none were made"
        raise TrialError(Termination.VERIFIER_CRASHED, f"{task.id}: no programs of a second user: {said}")


def _scripts(task: Task, seed: int) -> Canary:
    """Spoiled copies of the Python tests that a foreign task's script runs."""
    spoiled: dict[str, bytes] = {}
    for path in sorted(task.tests.rglob("*.py")):
        if path.name.startswith("test_") or path.name.endswith("_test.py"):
            content = spoil_all(path.read_bytes(), seed)
            if content is not None:
                spoiled[path.relative_to(task.tests).as_posix()] = content
    return Canary(spoiled, ())


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
