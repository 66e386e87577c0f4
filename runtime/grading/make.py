"""Makes the verifier that a run's settings ask for: each task is graded in the way that it is made for."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.config import Environment
from runtime.grading.base import Verdict, Verifier
from runtime.grading.id_verifier import IdVerifier
from runtime.grading.log_verifier import LogVerifier
from runtime.grading.reuse import ReusingVerifier
from runtime.grading.script_verifier import ScriptVerifier
from runtime.grading.suite_verifier import SuiteVerifier
from runtime.sandboxes.base import SandboxProvider
from runtime.sandboxes.entries import Entry
from runtime.task import Task


class TaskVerifier:
    """Implements ``Verifier``: by test ids where a task names them, of Python's tests or of another suite's, by the log
    of its set's own tests, or else by its script."""

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        self._by_ids = IdVerifier(config, provider)
        self._by_suite = SuiteVerifier(config, provider)
        self._by_script = ScriptVerifier(config, provider)
        self._by_log = LogVerifier(config, provider)

    async def grade(self, task: Task, artifacts: Mapping[str, Entry]) -> Verdict:
        if task.by_log:
            return await self._by_log.grade(task, artifacts)
        verifier = self._by_suite if task.suite is not None else self._by_ids if task.expected_ids else self._by_script
        return await verifier.grade(task, artifacts)

    async def close(self) -> None:
        await self._by_ids.close()
        await self._by_suite.close()
        await self._by_script.close()
        await self._by_log.close()


def make_verifier(config: Environment, provider: SandboxProvider) -> Verifier:
    """A verifier that grades in fresh sandboxes of ``provider`` (which it does not close)."""
    verifier = TaskVerifier(config, provider)
    return ReusingVerifier(verifier) if config.reuse_verdicts else verifier
