"""Verdicts of tasks from published sets: the set's own script runs the tests, the host reads the log.

``tests/test.sh`` writes the log; what a test is called, how it ended and what counts is the set's
(``log_verdict.py``). Whoever runs beside the tests can write into the log, so nothing here is proof against a forger:
look-alikes stand where the set's tests are files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from runtime.errors import Termination, TrialError, UserError
from runtime.grading import swebench_log
from runtime.grading.log_verdict import PACKAGE, PARSERS, Expected, LogVerdict, judge, output
from runtime.grading.script_verifier import ScriptVerifier
from runtime.task import Task

LOG: Final = "/logs/verifier/test_output.txt"
STATUSES = "expected.json"
"""In ``tests/``: how each test ends, where a set says that in place of two lists."""


class LogVerifier(ScriptVerifier):
    """For tasks with ``runner = "log"``."""

    OWN_DEFENCES = ("host_verdict", "tests_restored")
    FILES = (LOG,)

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


async def read(task: Task, log: str) -> LogVerdict:
    """Raises ``TrialError``; ``UserError`` where its parser is not here."""
    facts = task.liverl.published
    assert facts is not None
    text = output(log)
    if facts.log_parser.startswith(PACKAGE):
        about = {"repo": facts.repo, "instance_id": facts.instance, "version": ""}
        found = await swebench_log.statuses(facts.log_parser.removeprefix(PACKAGE), text, about)
    elif facts.log_parser in PARSERS:
        found = PARSERS[facts.log_parser](text)
    else:
        known = ", ".join(PARSERS)
        raise UserError(f"{task.path}: no log parser {facts.log_parser!r}; there are {known} and {PACKAGE}NAME")
    return judge(log, found, expected(task), facts.rule)


def expected(task: Task) -> Expected:
    path = task.tests / STATUSES
    statuses = json.loads(path.read_bytes()) if path.is_file() else {}
    return Expected(task.liverl.fail_to_pass, task.liverl.pass_to_pass, statuses)
