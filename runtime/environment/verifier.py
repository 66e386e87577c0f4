"""Grades the artifacts of a trial in a second, fresh sandbox; the verdict is computed here, on the host.

The agent's own sandbox plays no part: the pristine repository, the declared artifacts and the task's own tests are put
together anew, the tests run, and exactly the expected test ids must have passed. What the code under test can still do
is interfere from within the process that tests it; ``Verdict.defences`` says what was in force.
"""

from __future__ import annotations

import itertools
import json
import math
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.config import Environment
from runtime.environment.artifacts import Selection, select
from runtime.environment.base import Mount, SandboxProvider, SandboxRequest, Verdict
from runtime.environment.grading import GradingSandbox
from runtime.errors import Termination, TrialError

if TYPE_CHECKING:
    from runtime.tasks.task import Task

TEST_TIMEOUT_SEC = 5.0
_NAMES = itertools.count()


class SandboxVerifier:
    """Implements ``Verifier`` with sandboxes of one provider."""

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        self._config = config
        self._provider = provider

    async def grade(self, task: Task, artifacts: Mapping[str, bytes]) -> Verdict:
        start = time.monotonic()
        timeout_sec = min(self._config.verifier_timeout_sec, task.config.verifier.timeout_sec)
        selection = select(task, artifacts)
        if selection.problem is not None:
            outcomes = dict.fromkeys(task.expected_ids, "missing")
            raw = json.dumps({"problem": selection.problem}).encode()
            return Verdict(0.0, "unsolved", outcomes, self._defences(), time.monotonic() - start, raw)
        sandbox = await self._provider.start(self._request(task))
        assert isinstance(sandbox, GradingSandbox)
        try:
            if task.expected_ids:
                return await self._grade_by_ids(task, sandbox, selection, timeout_sec, start)
            return await self._grade_by_script(task, sandbox, selection, timeout_sec, start)
        except TimeoutError as error:
            raise TrialError(Termination.VERIFIER_TIMEOUT, f"{task.id}: {error}") from error
        except TrialError as error:
            if error.termination is Termination.SANDBOX_LOST:
                raise TrialError(Termination.VERIFIER_CRASHED, f"{task.id}: {error}") from error
            raise
        finally:
            await sandbox.stop()

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

    def _defences(self) -> tuple[str, ...]:
        names = ["declared_artifacts", "tests_restored", "host_verdict", "report_nonce"]
        capabilities = self._provider.capabilities
        if capabilities.fresh_filesystem:
            names.insert(0, "fresh_sandbox")
        if capabilities.network_off:
            names.append("network_off")
        return (*names, str(getattr(self._provider, "how", capabilities.isolation)))

    async def _grade_by_ids(
        self, task: Task, sandbox: GradingSandbox, selection: Selection, timeout_sec: float, start: float
    ) -> Verdict:
        if selection.files:
            await sandbox.upload(selection.files)
        report = await sandbox.run_tests(
            task.liverl.runner,
            timeout_sec=timeout_sec,
            ids=list(task.expected_ids),
            stop_first=True,
            test_timeout=min(TEST_TIMEOUT_SEC, timeout_sec),
            python_path=list(task.liverl.python_path),
            nonce=secrets.token_hex(8),
        )
        outcomes = read_outcomes(report, task.expected_ids)
        if report.get("ended") == "timeout":
            raise TimeoutError(f"the tests took longer than {timeout_sec:g} s")
        solved = report.get("complete") is True and all(outcome == "passed" for outcome in outcomes.values())
        return Verdict(
            reward=1.0 if solved else 0.0,
            status="solved" if solved else "unsolved",
            outcomes=outcomes,
            defences=self._defences(),
            seconds=time.monotonic() - start,
            raw=json.dumps(report).encode(),
        )

    async def _grade_by_script(
        self, task: Task, sandbox: GradingSandbox, selection: Selection, timeout_sec: float, start: float
    ) -> Verdict:
        """A task from elsewhere: Harbor's contract, ``tests/test.sh`` and the reward file that it writes."""
        if self._provider.capabilities.isolation == "none":
            why = f"{task.id}: tests/test.sh names /tests and /logs, which exist in isolated sandboxes only"
            raise TrialError(Termination.VERIFIER_CRASHED, why)
        if selection.files:
            await sandbox.upload(selection.files)
        await sandbox.upload({"/logs/verifier/.keep": b""})
        result = await sandbox.exec(["bash", "/tests/test.sh"], timeout_sec=timeout_sec)
        written = await sandbox.download(["/logs/verifier"], max_bytes=1 << 20)
        reward = read_reward(task.id, written)
        raw = {name: content.decode(errors="replace") for name, content in written.items()}
        raw |= {"stdout": result.stdout.decode(errors="replace"), "stderr": result.stderr.decode(errors="replace")}
        return Verdict(
            reward=reward,
            status="solved" if reward == 1.0 else "unsolved",
            outcomes={},
            defences=tuple(name for name in self._defences() if name not in ("report_nonce", "host_verdict")),
            seconds=time.monotonic() - start,
            raw=json.dumps(raw).encode(),
        )


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
