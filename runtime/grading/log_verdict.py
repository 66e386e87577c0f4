"""From the log of a published set's own test run to a verdict: how each test ended, and what its set makes of that.

Parsers that belong to package ``swebench`` are used as they are (``swebench_log.py``); those of sets without a package
are here. Does not know where the log comes from. A log is written beside code under test, so it is that code's word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from runtime.task_format.published import Rule

START, END, EXIT = ">>>>> Start Test Output", ">>>>> End Test Output", ">>>>> Test Exit Code"
"""What the sets' scripts write around the output of the tests, and before how their command ended."""
BROKEN = (">>>>> Patch Apply Failed", ">>>>> Reset Failed", ">>>>> Tests Errored", ">>>>> Tests Timed Out")
PACKAGE = "swebench:"
"""Before the names of parsers that package swebench has."""
_EXIT = re.compile(rf"{re.escape(EXIT)}:\s*(-?\d+)")
_STATUSES = ("PASSED", "FAILED", "SKIPPED", "ERROR", "XFAIL", "XPASS")
_GOOD, _BAD = ("PASSED", "XFAIL"), ("FAILED", "ERROR")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RAN = re.compile(
    r"(?<!\d)[1-9]\d* (?:passing|passed|specs?)\b|Executed [1-9]\d* of \d+|TOTAL: [1-9]|^# tests [1-9]|': ok$", re.M
)


@dataclass(frozen=True)
class Expected:
    """``fail_to_pass`` and ``pass_to_pass``, or (R2E) how every test ends."""

    fail_to_pass: Sequence[str] = ()
    pass_to_pass: Sequence[str] = ()
    statuses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LogVerdict:
    """``outcomes``: each expected test -> passed, failed, error, skipped, missing or unexpected. ``problem``: why
    nothing was read."""

    solved: bool
    outcomes: Mapping[str, str]
    problem: str = ""


def output(log: str) -> str:
    """What the tests wrote: between the marks, or all of it where a script has none."""
    _, started, after = log.partition(START)
    return after.partition(END)[0] if started else log


def judge(log: str, found: Mapping[str, str], expected: Expected, rule: Rule) -> LogVerdict:
    """``found``: what the parser read of ``log``."""
    named = [mark for mark in BROKEN if mark in log]
    exits = _EXIT.findall(log)
    problem = ""
    if named:
        problem = f"the log says {named[0].removeprefix('>>>>> ')}"
    elif START in log and END not in log:
        problem = "the test run did not come to its end"
    elif not found and not (rule == "fail_only" and _RAN.search(log)):
        problem = "no test ended"
    elif exits and int(exits[-1]) != 0 and rule != "exact" and not any(one in _BAD for one in found.values()):
        problem = f"no test failed, yet the command ended with {exits[-1]}"
    if rule == "exact":
        outcomes = {name: _word(found.get(name), wanted) for name, wanted in expected.statuses.items()}
        more = dict.fromkeys(sorted(set(found) - set(expected.statuses)), "unexpected")
        return LogVerdict(not problem and not more and all(map(_fine, outcomes.values())), outcomes | more, problem)
    if rule == "all":  # whatever tests there are
        outcomes = {name: _word(status) for name, status in found.items()}
        return LogVerdict(not problem and all(map(_fine, outcomes.values())), outcomes, problem)
    wanted = [*((name, False) for name in expected.fail_to_pass), *((name, True) for name in expected.pass_to_pass)]
    outcomes, solved = {}, not problem
    for name, kept in wanted:
        status = _status(name, found)
        good = status in _GOOD or (kept and status == "SKIPPED")
        if rule == "fail_only":
            good = status != "FAILED"
        outcomes[name] = "passed" if good and status is None else _word(status)
        solved = solved and good
    return LogVerdict(solved and bool(wanted), outcomes, problem)


def _fine(outcome: str) -> bool:
    return outcome == "passed"


def _word(status: str | None, wanted: str | None = None) -> str:
    if status is None:
        return "missing"
    if wanted is not None and status == wanted:
        return "passed"
    words = {"PASSED": "passed", "XFAIL": "passed", "ERROR": "error", "SKIPPED": "skipped"}
    return "failed" if wanted is not None else words.get(status, "failed")


def _status(name: str, found: Mapping[str, str]) -> str | None:
    """Some sets cut names within their parameters (swebench's issue 290): those are known by how they begin, where all
    that begin so ended alike."""
    if name in found or name.count("[") <= name.count("]"):
        return found.get(name)
    alike = {status in _GOOD: status for other, status in found.items() if other.startswith(name)}
    return next(iter(alike.values())) if len(alike) == 1 else None


# Parsers of sets that come without a package.


def _verbose(log: str) -> dict[str, str]:
    """``test PASSED [ 10%]``, a test a line: pytest --verbose, as SWE-smith runs it."""
    found = {}
    for line in log.splitlines():
        words = line.split()
        if len(words) > 1 and not line[:1].isspace() and words[1] in _STATUSES:
            found[words[0]] = words[1]
    return found


def _summary(log: str) -> dict[str, str]:
    """``PASSED test``, a test a line: pytest -rA."""
    found = {}
    for line in log.splitlines():
        status, _, rest = _COLOUR.sub("", line).partition(" ")
        words = rest.split(" - ")[0].split()
        if status in _STATUSES and words and not re.fullmatch(r"\[\d+\].*", rest):
            found[words[0]] = status
    return found


def _go(log: str) -> dict[str, str]:
    words = {"PASS": "PASSED", "FAIL": "FAILED", "SKIP": "SKIPPED"}
    found = {}
    for line in map(str.strip, log.splitlines()):
        if line.startswith("--- ") and line[4:8] in words and line[8:10] == ": " and line.endswith(")"):
            name, _, took = line[10:].rpartition(" (")
            if name and took != ")":
                found[name] = words[line[4:8]]
    return found


def _unittest(log: str) -> dict[str, str]:
    words = {"ok": "PASSED", "FAIL": "FAILED", "ERROR": "ERROR"}
    lines = (re.match(r"([\w\-,.\s()']+?) \.\.\. (ok|FAIL|ERROR)$", line) for line in log.splitlines())
    return {match[1]: words[match[2]] for match in lines if match}


def _r2e(log: str) -> dict[str, str]:
    """Of pytest's summary alone; tests are named by class and function, joined with a dot."""
    found: dict[str, str] = {}
    for line in _COLOUR.sub("", log).partition("short test summary info")[2].strip().splitlines():
        status = next((one for one in ("PASSED", "FAILED", "ERROR") if one in line), None)
        if status is not None:
            found[".".join(line.split("::")[1:]).split(" - ")[0]] = status
    return found


PARSERS: Mapping[str, Callable[[str], dict[str, str]]] = {
    "pytest-verbose": _verbose,
    "pytest-summary": _summary,
    "go": _go,
    "unittest": _unittest,
    "r2e": _r2e,
}


def r2e_expected(text: str) -> dict[str, str]:
    """``expected_output_json`` of a row. Raises ``ValueError``."""
    table = json.loads(text)
    if not isinstance(table, dict) or not table:
        raise ValueError("expected_output_json is no table of tests")
    return {_COLOUR.sub("", str(name)).split(" - ")[0]: str(status) for name, status in table.items()}
