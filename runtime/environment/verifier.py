"""Grades the artifacts of a trial in fresh sandboxes; the verdict is computed here, on the host.

The agent's own sandbox plays no part: the pristine repository, the declared artifacts and the task's own tests are put
together anew, the tests run, and exactly the expected test ids must have passed. Code under test shares a process with
its tests, so from within it can forge all that this process says. Therefore work that seems to solve the task is
measured once more, in another fresh sandbox, against look-alike tests that no honest work passes (``canary.py``): who
passes those as well has tampered. ``Verdict.defences`` says what was in force.
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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.config import Environment
from runtime.environment.artifacts import Selection, select, test_sources
from runtime.environment.base import Mount, SandboxProvider, SandboxRequest, Verdict
from runtime.environment.canary import Canary, spoil, spoil_all
from runtime.environment.defences import missing, provider_defences
from runtime.environment.grading import GradingSandbox
from runtime.errors import Termination, TrialError

if TYPE_CHECKING:
    from runtime.tasks.task import Task

TEST_TIMEOUT_SEC = 5.0
MAX_NOISE_BYTES = 1 << 15
_CANARIES_PER_TASK = 8
_MAX_CANARIES = 4096
_NAMES = itertools.count()


class SandboxVerifier:
    """Implements ``Verifier`` with sandboxes of one provider."""

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        self._config = config
        self._provider = provider
        self._canaries: dict[tuple[Path, int], Canary] = {}
        self._calibrating: dict[Path, asyncio.Lock] = {}

    async def grade(self, task: Task, artifacts: Mapping[str, bytes]) -> Verdict:
        start = time.monotonic()
        timeout_sec = min(self._config.verifier_timeout_sec, task.config.verifier.timeout_sec)
        canary = self._canary(task) if task.expected_ids else await self._script_canary(task, timeout_sec)
        defences = self._defences(task, canary)
        lacking = missing(self._config.required_defences, defences)
        if lacking:
            raise TrialError(Termination.TASK_INVALID, f"{task.id}: required defences not to be had: {lacking}")
        selection = select(task, artifacts)
        if selection.problem is not None:
            outcomes = dict.fromkeys(task.expected_ids, "missing")
            raw = json.dumps({"problem": selection.problem}).encode()
            return Verdict(0.0, "unsolved", outcomes, defences, time.monotonic() - start, raw)
        try:
            if task.expected_ids:
                return await self._grade_by_ids(task, selection, canary, defences, timeout_sec, start)
            return await self._grade_by_script(task, selection, canary, defences, timeout_sec, start)
        except TimeoutError as error:
            raise TrialError(Termination.VERIFIER_TIMEOUT, f"{task.id}: {error}") from error
        except TrialError as error:
            if error.termination is Termination.SANDBOX_LOST:
                raise TrialError(Termination.VERIFIER_CRASHED, f"{task.id}: {error}") from error
            raise

    async def close(self) -> None:
        """Nothing of its own is open: every verdict's sandbox is gone when ``grade`` returns."""

    def _request(self, task: Task) -> SandboxRequest:
        repository = task.repository if task.repository.is_dir() else task.path / "environment"
        return SandboxRequest(
            name=f"verify-{task.id}-{next(_NAMES)}",
            lower=repository,
            workdir=task.config.environment.workdir,
            mounts=() if task.expected_ids else (Mount(task.tests, "/tests"),),
            memory_mib=self._config.memory_mib,
            pids=self._config.pids,
            image=task.liverl.image,
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
        solution = task.path / "solution"
        if not (solution / "solve.sh").is_file():
            return False
        request = replace(self._request(task), mounts=(Mount(solution, "/solution"),))
        sandbox = await self._provider.start(request)
        try:
            await sandbox.exec(["bash", "/solution/solve.sh"], timeout_sec=task.config.agent.timeout_sec)
            selection = select(task, await sandbox.download([request.workdir]))
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

    def _defences(self, task: Task, canary: Canary) -> tuple[str, ...]:
        names = [*provider_defences(self._provider.capabilities), "agent_killed", "declared_artifacts"]
        if task.expected_ids:
            names += ["tests_restored", "host_verdict", "report_nonce"]
        if canary.files:
            names.append("canary")
        return (*names, str(getattr(self._provider, "how", self._provider.capabilities.isolation)))

    async def _grade_by_ids(
        self,
        task: Task,
        selection: Selection,
        canary: Canary,
        defences: tuple[str, ...],
        timeout_sec: float,
        start: float,
    ) -> Verdict:
        tests = test_sources(task)
        report = await self._report(task, selection, tests, timeout_sec, stop_first=True)
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
            defences=defences,
            seconds=time.monotonic() - start,
            raw=json.dumps(raw).encode(),
        )

    async def _report(
        self, task: Task, selection: Selection, tests: Mapping[str, bytes], timeout_sec: float, *, stop_first: bool
    ) -> dict[str, Any]:
        """Run ``tests`` against the work in a fresh sandbox. Raises ``TrialError`` where the runner itself failed."""
        workdir = task.config.environment.workdir
        files = {**selection.files, **{f"{workdir}/{name}": with_noise(name, text) for name, text in tests.items()}}
        sandbox = await self._provider.start(self._request(task))
        assert isinstance(sandbox, GradingSandbox)
        try:
            await sandbox.upload(files)
            report = await sandbox.run_tests(
                task.liverl.runner,
                timeout_sec=timeout_sec,
                ids=list(task.expected_ids),
                stop_first=stop_first,
                test_timeout=min(TEST_TIMEOUT_SEC, timeout_sec),
                python_path=list(task.liverl.python_path),
                nonce=secrets.token_hex(8),
            )
        finally:
            await sandbox.stop()
        if report.get("ended") == "timeout":
            raise TimeoutError(f"the tests took longer than {timeout_sec:g} s")
        if report.get("runner_error") is not None:
            why = f"{task.id}: the test runner failed: {str(report['runner_error'])[:300]}"
            raise TrialError(Termination.VERIFIER_CRASHED, why)
        return report

    async def _grade_by_script(
        self,
        task: Task,
        selection: Selection,
        canary: Canary,
        defences: tuple[str, ...],
        timeout_sec: float,
        start: float,
    ) -> Verdict:
        """A task from elsewhere: Harbor's contract, ``tests/test.sh`` and the reward file that it writes."""
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
            reward=0.0 if tampered else reward,
            status="tampered" if tampered else "solved" if reward == 1.0 else "unsolved",
            outcomes={},
            defences=defences,
            seconds=time.monotonic() - start,
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
                request = replace(request, mounts=(Mount(copy, "/tests"),))
            sandbox = await self._provider.start(request)
            try:
                await sandbox.upload({**selection.files, "/logs/verifier/.keep": b""})
                result = await sandbox.exec(["bash", "/tests/test.sh"], timeout_sec=timeout_sec)
                written = await sandbox.download(["/logs/verifier"], max_bytes=1 << 20)
            finally:
                await sandbox.stop()
        raw: dict[str, Any] = {name: content.decode(errors="replace") for name, content in written.items()}
        raw |= {"stdout": result.stdout.decode(errors="replace"), "stderr": result.stderr.decode(errors="replace")}
        return read_reward(task.id, written), raw


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


class OutcomeServer:
    """Test outcomes of a repository with some files replaced, many times over: for the generation of tasks.

    Every question is answered in a fresh sandbox. Made with a provider, which it does not close, or with a state
    folder.
    """

    def __init__(self, *, provider: SandboxProvider | None = None, state: Path | None = None) -> None:
        if provider is None:
            from runtime.environment import make_provider

            assert state is not None, "a provider or a state folder is needed"
            self._own: SandboxProvider | None = make_provider(Environment(), state=state)
        else:
            self._own = None
        self._provider = provider or self._own

    async def outcomes(
        self,
        repo: Path,
        files: Mapping[str, bytes],
        ids: tuple[str, ...] | list[str] | None = None,
        *,
        runner: str = "mini",
        image: str | None = None,
        timeout_sec: float = 10.0,
        stop_first: bool = False,
    ) -> dict[str, str]:
        """Test id -> passed, failed, error, skipped or (for given ids) missing. files: path below ``repo`` -> content.

        Tests that a timeout cut off are missing. Raises ``TrialError``.
        """
        report = await self.report(
            repo, files, ids, runner=runner, image=image, timeout_sec=timeout_sec, stop_first=stop_first
        )
        return read_outcomes(report, tuple(ids if ids is not None else report["tests"]))

    async def report(
        self,
        repo: Path,
        files: Mapping[str, bytes],
        ids: tuple[str, ...] | list[str] | None = None,
        *,
        runner: str = "mini",
        image: str | None = None,
        timeout_sec: float = 10.0,
        stop_first: bool = False,
        trace: bool = False,
    ) -> dict[str, Any]:
        """The test kit's whole report (``testkit/report.py``)."""
        assert self._provider is not None
        request = SandboxRequest(name=f"outcomes-{next(_NAMES)}", lower=repo, image=image)
        sandbox = await self._provider.start(request)
        assert isinstance(sandbox, GradingSandbox)
        try:
            if files:
                await sandbox.upload({f"{request.workdir}/{path}": content for path, content in files.items()})
            return await sandbox.run_tests(
                runner,
                timeout_sec=timeout_sec,
                ids=list(ids) if ids is not None else None,
                stop_first=stop_first,
                trace=trace,
                test_timeout=min(TEST_TIMEOUT_SEC, timeout_sec),
            )
        finally:
            await sandbox.stop()

    async def close(self) -> None:
        if self._own is not None:
            await self._own.close()
