"""Verdicts from test ids: exactly the expected tests must have passed, by a report that LiveRL's own runner makes.

Where the sandbox has a second user and the task's own solution shows that its tests allow it, the code under test runs
in a process of its own as that user (``testkit/apart.py``). Elsewhere it shares a process with its tests and can forge
all that this process says. So work that seems to solve such a task is measured once more, in another fresh sandbox,
against look-alike tests that no honest work passes (``canary.py``): who passes those as well has tampered.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.config import Environment
from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import Selection, select, test_sources, tests_own_modules
from runtime.grading.base import Verdict
from runtime.grading.canary import Canary, spoil
from runtime.grading.verifier import Plan, SandboxVerifier, solution_files
from runtime.sandboxes.base import SandboxProvider
from runtime.task import Task

MAX_NOISE_BYTES = 1 << 15
_CANARIES_PER_TASK = 8
_MAX_CANARIES = 4096


class IdVerifier(SandboxVerifier):
    """For tasks with ``fail_to_pass`` and ``pass_to_pass``."""

    OWN_DEFENCES = ("tests_restored", "host_verdict", "report_nonce")

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        super().__init__(config, provider)
        self._canaries: dict[tuple[Path, int], Canary] = {}
        self._calibrating: dict[Path, asyncio.Lock] = {}
        self._apart: dict[Path, tuple[str, ...]] = {}

    async def _prepare(self, task: Task, timeout_sec: float) -> tuple[Canary, tuple[str, ...]]:
        trusted = await self._trusted(task, timeout_sec)
        if trusted and "canary" not in self._config.required_defences:
            return Canary({}, ()), trusted  # nothing that the code under test can do reaches the process that judges
        return self._canary(task), trusted

    async def _run(self, plan: Plan, selection: Selection) -> Verdict:
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
        try:
            if others:
                await sandbox.upload(others)
            await sandbox.upload(noisy, mode=0o600 if trusted else 0o644)
            report = await sandbox.run_tests(
                task.liverl.runner,
                timeout_sec=timeout_sec,
                ids=list(task.expected_ids),
                stop_first=stop_first,
                test_timeout=min(task.liverl.test_timeout_sec, timeout_sec),
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
