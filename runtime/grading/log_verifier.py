"""Verdicts of tasks from published sets: the set's own script runs the tests, the host reads the log.

``tests/test.sh`` writes the log; what a test is called, how it ended and what counts is the set's
(``log_verdict.py``). Whoever runs beside the tests can write into the log, so nothing here is proof against a forger:
look-alikes stand where the set's tests are files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from runtime.errors import Termination, TrialError
from runtime.grading import swebench_log
from runtime.grading.canary import Canary
from runtime.grading.log_verdict import PACKAGE, PARSERS, Expected, LogVerdict, judge, output, r2e_expected
from runtime.grading.script_verifier import ScriptVerifier
from runtime.grading.verifier import Apart
from runtime.task import Task
from runtime.task_format.published import Published

LOG: Final = "/logs/verifier/test_output.txt"
STATUSES = "expected.json"
"""In ``tests/``: how each test ends, where a set says that in place of two lists."""


class LogVerifier(ScriptVerifier):
    """For tasks with ``runner = "log"``."""

    OWN_DEFENCES = ("host_verdict", "tests_restored")
    FILES = (LOG,)
    MAX_BYTES = 16 << 20
    MAY_BE_APART = False

    async def _prepare(self, task: Task, timeout_sec: float) -> tuple[Canary, Apart | None]:
        if (why := why_unreadable(task)) is not None:
            raise TrialError(Termination.TASK_INVALID, f"{task.id}: {why}")
        return await super()._prepare(task, timeout_sec)

    async def _kept_apart(self, task: Task, timeout_sec: float) -> bool:
        return False  # the log is the tests' own word, whoever writes the reward

    async def _score(self, task: Task, written: Mapping[str, bytes], raw: dict[str, Any]) -> float:
        if LOG not in written:
            raise TrialError(Termination.VERIFIER_CRASHED, f"{task.id}: tests/test.sh wrote no log")
        verdict = await read(task, written[LOG].decode(errors="replace"))
        raw["outcomes"] = dict(verdict.outcomes)
        if verdict.problem:
            raw["problem"] = verdict.problem
        return float(verdict.solved)


def why_unreadable(task: Task) -> str | None:
    """Why the log of a task's tests cannot be read here; None where it can."""
    facts = _facts(task)
    if facts.log_parser.startswith(PACKAGE):
        why = swebench_log.why_missing(facts.log_parser.removeprefix(PACKAGE))
    elif facts.log_parser not in PARSERS:
        why = f"no log parser {facts.log_parser!r}; there are {', '.join(PARSERS)} and {PACKAGE}NAME"
    else:
        why = None
    try:
        expected(task)
    except (OSError, ValueError, RecursionError) as error:
        why = why or f"tests/{STATUSES}: {error}"
    return why


async def read(task: Task, log: str) -> LogVerdict:
    """Raises ``TrialError``."""
    facts = _facts(task)
    text = output(log)
    if facts.log_parser.startswith(PACKAGE):
        about = {"repo": facts.repo, "instance_id": facts.instance, "version": ""}
        found = await swebench_log.statuses(facts.log_parser.removeprefix(PACKAGE), text, about)
    else:
        found = await asyncio.to_thread(PARSERS[facts.log_parser], text)
    return await asyncio.to_thread(judge, log, found, expected(task), facts.rule)


def expected(task: Task) -> Expected:
    """Raises ``ValueError``, ``OSError``."""
    facts = _facts(task)
    if facts.rule != "exact":
        return Expected(task.liverl.fail_to_pass, task.liverl.pass_to_pass)
    return Expected(statuses=r2e_expected((task.tests / STATUSES).read_text(encoding="utf-8")))


def _facts(task: Task) -> Published:
    assert task.liverl.published is not None, "such a task is not loaded"
    return task.liverl.published
