"""Grades the artifacts of a trial in fresh sandboxes; the verdict is computed here, on the host.

The agent's own sandbox plays no part: the pristine repository, the declared artifacts and the task's own tests are put
together anew, the tests run, and exactly the expected test ids must have passed. Where the sandbox has a second user
and the task's own solution shows that its tests allow it, the code under test runs in a process of its own as that user
(``testkit/apart.py``). Elsewhere it shares a process with its tests and can forge all that this process says. So work
that seems to solve such a task is measured once more, in another fresh sandbox, against look-alike tests that no honest
work passes (``canary.py``): who passes those as well has tampered. ``Verdict.defences`` says what was in force.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from runtime.config import Environment
from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import ArtifactsRefused, Selection, select, test_sources, tests_own_modules
from runtime.grading.canary import Canary, spoil, spoil_all
from runtime.grading.task_scripts import attempt, last_words, mounts_of, run_script
from runtime.sandboxes.base import TASK_FILES, Mount, SandboxProvider, SandboxRequest, Verdict
from runtime.sandboxes.defences import missing, provider_defences
from runtime.sandboxes.grading import GradingSandbox

if TYPE_CHECKING:
    from runtime.task import Task

TEST_TIMEOUT_SEC = 5.0
MAX_NOISE_BYTES = 1 << 15
_CANARIES_PER_TASK = 8
_MAX_CANARIES = 4096
_NAMES = itertools.count()
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Plan:
    """How one verdict is come to, whatever the work. ``start``: on the monotonic clock."""

    task: Task
    canary: Canary
    trusted: tuple[str, ...]
    defences: tuple[str, ...]
    timeout_sec: float
    start: float


class SandboxVerifier:
    """Implements ``Verifier`` with sandboxes of one provider."""

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        self._config = config
        self._provider = provider
        self._canaries: dict[tuple[Path, int], Canary] = {}
        self._calibrating: dict[Path, asyncio.Lock] = {}
        self._apart: dict[Path, tuple[str, ...]] = {}
        self._own_work: dict[Path, asyncio.Task[dict[str, bytes]]] = {}
        self._own_scores: dict[Path, asyncio.Task[float | None]] = {}

    async def grade(self, task: Task, artifacts: Mapping[str, bytes]) -> Verdict:
        start = time.monotonic()
        timeout_sec = min(self._config.verifier_timeout_sec, task.config.verifier.timeout_sec)
        trusted = await self._trusted(task, timeout_sec) if task.expected_ids else ()
        if not task.expected_ids:
            canary = await self._script_canary(task, timeout_sec)
        elif trusted and "canary" not in self._config.required_defences:
            canary = Canary({}, ())  # nothing that the code under test can do reaches the process that judges
        else:
            canary = self._canary(task)
        defences = self._defences(task, canary, apart=bool(trusted))
        lacking = missing(self._config.required_defences, defences)
        if lacking:
            raise TrialError(Termination.TASK_INVALID, f"{task.id}: required defences not to be had: {lacking}")
        selection = select(task, artifacts)
        if selection.problem is not None:
            outcomes = dict.fromkeys(task.expected_ids, "missing")
            raw = json.dumps({"problem": selection.problem}).encode()
            return Verdict(0.0, "unsolved", outcomes, defences, time.monotonic() - start, raw)
        plan = _Plan(task, canary, trusted, defences, timeout_sec, start)
        try:
            return await self._judge(plan, selection)
        except TrialError:
            # Whoever could bring this about by the work that is judged could trade a bad grade for another attempt.
            if not selection.files or not await self._control(plan):
                raise
        try:
            return await self._judge(plan, selection)  # once may have been the machine's fault; twice is the work's
        except TrialError as error:
            problem = f"{error.termination.value}: {error}; with other work the verifier came to its end"
            outcomes = dict.fromkeys(task.expected_ids, "missing")
            raw = json.dumps({"problem": problem}).encode()
            return Verdict(0.0, "unsolved", outcomes, defences, time.monotonic() - start, raw)

    async def _judge(self, plan: _Plan, selection: Selection) -> Verdict:
        task = plan.task
        try:
            if task.expected_ids:
                return await self._grade_by_ids(plan, selection)
            return await self._grade_by_script(plan, selection)
        except TimeoutError as error:
            raise TrialError(Termination.VERIFIER_TIMEOUT, f"{task.id}: {error}") from error
        except TrialError as error:
            if error.termination is Termination.SANDBOX_LOST:
                raise TrialError(Termination.VERIFIER_CRASHED, f"{task.id}: {error}") from error
            raise

    async def _control(self, plan: _Plan) -> bool:
        """Whether a verdict can be had now for other work on the task: for its own solution, or else for none."""
        try:
            await self._judge(plan, select(plan.task, await self._solution(plan.task)))
        except TrialError:
            return False
        return True

    async def _solution(self, task: Task) -> dict[str, bytes]:
        """The work of the task's own solution, by path inside; made once per task, empty where there is none. Raises
        ``TrialError`` where its box fails."""

        async def make() -> dict[str, bytes]:
            files = solution_files(task)
            if files or task.solve_script is None:
                return files
            name, memory_mib = f"solution-{task.id}-{next(_NAMES)}", self._config.memory_mib
            made = await attempt(task, task.solve_script, provider=self._provider, name=name, memory_mib=memory_mib)
            return dict(made.artifacts)

        return await _once(self._own_work, task.path, make)

    async def _best(self, task: Task, timeout_sec: float) -> float | None:
        """What the task's script gives its own solution, found out once; None where that cannot be had."""

        async def make() -> float | None:
            if task.solve_script is None:
                return None
            try:
                score, _ = await self._script(task, select(task, await self._solution(task)), {}, timeout_sec)
            except (TrialError, TimeoutError):
                return None
            return score

        return await _once(self._own_scores, task.path, make)

    async def _trusted(self, task: Task, timeout_sec: float) -> tuple[str, ...]:
        """The tests' own modules, if the code under test can live in another process; else (). Found out once per task
        with its own solution: tests that need more of it than plain calls fail there.
        """
        if not self._provider.capabilities.second_user:
            return ()
        async with self._calibrating.setdefault(task.path, asyncio.Lock()):
            if task.path not in self._apart:
                trusted: tuple[str, ...] = ()
                files = solution_files(task)
                if files:
                    trusted = tests_own_modules(task)
                    try:
                        tests, right = test_sources(task), select(task, files)
                        report = await self._report(task, right, tests, timeout_sec, stop_first=True, trusted=trusted)
                        outcomes = read_outcomes(report, task.expected_ids)
                    except (TrialError, TimeoutError):
                        outcomes = {}
                    if not outcomes or set(outcomes.values()) != {"passed"}:
                        trusted = ()
                self._apart[task.path] = trusted
            return self._apart[task.path]

    async def close(self) -> None:
        """Every verdict's sandbox is gone when ``grade`` returns; what is found out once per task may still be on its
        way."""
        running = [one for one in (*self._own_work.values(), *self._own_scores.values()) if not one.done()]
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _request(self, task: Task, *, second_user: bool = False) -> SandboxRequest:
        tests = () if task.expected_ids else (Mount(task.tests, f"{TASK_FILES}/tests"),)
        return SandboxRequest(
            name=f"verify-{task.id}-{next(_NAMES)}",
            lower=task.repository,
            workdir=task.config.environment.workdir,
            mounts=(*mounts_of(task), *tests),
            env=task.config.environment.env,
            memory_mib=self._config.verifier.memory_mib or self._config.memory_mib,
            pids=self._config.verifier.pids or self._config.pids,
            image=task.liverl.image,
            second_user=second_user,
        )

    def _canary(self, task: Task) -> Canary:
        """One of a few spoiled copies per task, drawn anew for each verdict."""
        key = (task.path, secrets.randbelow(_CANARIES_PER_TASK))
        found = self._canaries.get(key)
        if found is None:
            seed = secrets.randbits(64)
            found = spoil(test_sources(task), task.expected_ids, seed)
            if len(self._canaries) >= _MAX_CANARIES:
                self._canaries.clear()
            self._canaries[key] = found
        return found

    async def _script_canary(self, task: Task, timeout_sec: float) -> Canary:
        """Spoiled tests of a foreign task, if its script heeds them: what its own solution scores with them must be
        less than without. Found out once per task; a task without a solution has no canary.
        """
        async with self._calibrating.setdefault(task.path, asyncio.Lock()):
            key = (task.path, -1)
            if key not in self._canaries:
                canary = _scripts(task, secrets.randbits(64))
                if canary.files and not await self._heeds(task, canary, timeout_sec):
                    canary = Canary({}, ())
                self._canaries[key] = canary
            return self._canaries[key]

    async def _heeds(self, task: Task, canary: Canary, timeout_sec: float) -> bool:
        honest = await self._best(task, timeout_sec)
        if honest is None:
            return False
        try:
            selection = select(task, await self._solution(task))
        except TrialError:
            return False
        try:
            spoiled, _ = await self._script(task, selection, canary.files, timeout_sec)
        except TrialError as error:
            return error.termination is Termination.VERIFIER_CRASHED and honest > 0  # no reward when tests fail
        except TimeoutError:
            return False
        return spoiled < honest

    def _defences(self, task: Task, canary: Canary, *, apart: bool) -> tuple[str, ...]:
        names = [*provider_defences(self._provider.capabilities), "agent_killed", "declared_artifacts"]
        if task.expected_ids:
            names += ["tests_restored", "host_verdict", "report_nonce"]
        if apart:
            names.append("solution_user")
        if canary.files:
            names.append("canary")
        return (*names, str(getattr(self._provider, "how", self._provider.capabilities.isolation)))

    async def _grade_by_ids(self, plan: _Plan, selection: Selection) -> Verdict:
        task, canary, timeout_sec = plan.task, plan.canary, plan.timeout_sec
        tests = test_sources(task)
        report = await self._report(task, selection, tests, timeout_sec, stop_first=True, trusted=plan.trusted)
        outcomes = read_outcomes(report, task.expected_ids)
        solved = report.get("complete") is True and all(outcome == "passed" for outcome in outcomes.values())
        raw: dict[str, Any] = dict(report)
        passed: list[str] = []
        if solved and canary.files:
            spoiled = await self._report(task, selection, {**tests, **canary.files}, timeout_sec, stop_first=False)
            raw["canary"] = {**spoiled, "ids": list(canary.ids)}
            passed = judge_canary(spoiled, canary.ids)
        return Verdict(
            reward=1.0 if solved and not passed else 0.0,
            status="tampered" if passed else "solved" if solved else "unsolved",
            outcomes=outcomes,
            defences=plan.defences,
            seconds=time.monotonic() - plan.start,
            raw=json.dumps(raw).encode(),
        )

    async def _report(
        self,
        task: Task,
        selection: Selection,
        tests: Mapping[str, bytes],
        timeout_sec: float,
        *,
        stop_first: bool,
        trusted: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Run ``tests`` against the work in a fresh sandbox. Raises ``TrialError`` where the runner itself failed.

        trusted: modules that the tests' process imports; all others live in a process of their own, whose user cannot
        read the tests.
        """
        workdir = task.config.environment.workdir
        noisy = {f"{workdir}/{name}": with_noise(name, text) for name, text in tests.items()}
        others = {name: content for name, content in selection.files.items() if name not in noisy}
        sandbox = await self._provider.start(self._request(task, second_user=bool(trusted)))
        assert isinstance(sandbox, GradingSandbox)
        try:
            if others:
                await sandbox.upload(others)
            await sandbox.upload(noisy, mode=0o600 if trusted else 0o644)
            report = await sandbox.run_tests(
                task.liverl.runner,
                timeout_sec=timeout_sec,
                ids=list(task.expected_ids),
                stop_first=stop_first,
                test_timeout=min(TEST_TIMEOUT_SEC, timeout_sec),
                python_path=list(task.liverl.python_path),
                nonce=secrets.token_hex(8),
                **({"trusted": list(trusted)} if trusted else {}),
            )
        finally:
            await sandbox.stop()
        if report.get("ended") == "timeout":
            raise TimeoutError(f"the tests took longer than {timeout_sec:g} s")
        if report.get("runner_error") is not None:
            why = f"{task.id}: the test runner failed: {str(report['runner_error'])[:300]}"
            raise TrialError(Termination.VERIFIER_CRASHED, why)
        return report

    async def _grade_by_script(self, plan: _Plan, selection: Selection) -> Verdict:
        """A task from elsewhere: Harbor's contract, ``tests/test.sh`` and the reward file that it writes."""
        task, canary, timeout_sec = plan.task, plan.canary, plan.timeout_sec
        if self._provider.capabilities.isolation == "none":
            why = f"{task.id}: tests/test.sh names /tests and /logs, which exist in isolated sandboxes only"
            raise TrialError(Termination.VERIFIER_CRASHED, why)
        score, raw = await self._script(task, selection, {}, timeout_sec)
        tampered = False
        if score > 0 and canary.files:
            try:
                forged, raw["canary"] = await self._script(task, selection, canary.files, timeout_sec)
            except TrialError as error:
                if error.termination is not Termination.VERIFIER_CRASHED:
                    raise
                forged, raw["canary"] = 0.0, str(error)  # a script that writes no reward when tests fail
            # A score for parts of the tests may be above 0 for honest work: the part that could not be spoiled.
            tampered = forged >= score
        reward = 0.0 if score <= 0 else as_reward(task.id, score, best=await self._best(task, timeout_sec))
        return Verdict(
            reward=0.0 if tampered else reward,
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
        request = self._request(task)
        with tempfile.TemporaryDirectory(prefix="liverl-tests-") as folder:
            if spoiled:
                copy = Path(folder) / "tests"
                shutil.copytree(task.tests, copy, symlinks=True)
                for name, content in spoiled.items():
                    (copy / name).write_bytes(content)
                request = replace(request, mounts=(*mounts_of(task), Mount(copy, f"{TASK_FILES}/tests")))
            sandbox = await self._provider.start(request)
            try:
                await sandbox.upload({**selection.files, "/logs/verifier/.keep": b""})
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


async def _once(kept: dict[Path, asyncio.Task[_T]], key: Path, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """What ``make`` gives, made by a task of its own: a verdict that is given up does not end it, and the next finds
    it done. A failure is not kept."""
    if key not in kept or (kept[key].done() and (kept[key].cancelled() or kept[key].exception() is not None)):
        kept[key] = asyncio.ensure_future(make())
    return await asyncio.shield(kept[key])


def solution_files(task: Task) -> dict[str, bytes]:
    """What the task's own repair replaces, by path inside; empty where it is a script only or not there."""
    root = task.path / "solution" / "files"
    workdir = task.config.environment.workdir
    files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else []
    return {f"{workdir}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in files}


def _scripts(task: Task, seed: int) -> Canary:
    """Spoiled copies of the Python tests that a foreign task's script runs."""
    spoiled: dict[str, bytes] = {}
    for path in sorted(task.tests.rglob("*.py")):
        if path.name.startswith("test_") or path.name.endswith("_test.py"):
            content = spoil_all(path.read_bytes(), seed)
            if content is not None:
                spoiled[path.relative_to(task.tests).as_posix()] = content
    return Canary(spoiled, ())


def with_noise(name: str, source: bytes) -> bytes:
    """Another digest and length each time, so that a remembered digest does not tell real tests from spoiled ones.

    Long files are left as they are: what the fork server has compiled for them would be lost.
    """
    if len(source) > MAX_NOISE_BYTES or not name.endswith(".py"):
        return source
    return source + b"\n# " + secrets.token_hex(4 + secrets.randbelow(12)).encode() + b"\n"


def judge_canary(report: Mapping[str, Any], ids: tuple[str, ...]) -> list[str]:
    """The spoiled tests that passed all the same. Raises ``TrialError`` where some have no outcome: no grade."""
    outcomes = read_outcomes(report, ids)
    passed = [test_id for test_id, outcome in outcomes.items() if outcome == "passed"]
    undecided = [test_id for test_id, outcome in outcomes.items() if outcome in ("missing", "skipped")]
    if undecided and not passed:
        raise TrialError(Termination.VERIFIER_CRASHED, f"look-alike tests without an outcome, such as {undecided[0]}")
    return passed


def read_outcomes(report: Mapping[str, Any], ids: tuple[str, ...]) -> dict[str, str]:
    """Expected id -> outcome, from a report that untrusted code may have written. Raises ``TrialError``."""
    tests = report.get("tests")
    if not isinstance(tests, dict):
        raise TrialError(Termination.VERIFIER_CRASHED, "the report has no tests")
    outcomes = {}
    for test_id in ids:
        entry = tests.get(test_id)
        outcome = entry.get("outcome") if isinstance(entry, dict) else "missing"
        outcomes[test_id] = outcome if outcome in ("passed", "failed", "error", "skipped") else "missing"
    return outcomes


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
