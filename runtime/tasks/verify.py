"""Proves tasks: the known repair scores more than doing nothing, every honest script as much, every cheat no more.

Each script runs as the agent would, in a sandbox of its own, and what it leaves is graded by the real verifier. Works
with any sandbox provider; does not know how tasks were made.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.errors import ImageError, TrialError, UserError
from runtime.grading.base import Verdict, Verifier
from runtime.grading.log_verifier import why_unreadable
from runtime.grading.task_scripts import attempt, last_words
from runtime.sandboxes.base import SandboxProvider, SandboxRequest
from runtime.task import Task
from runtime.tasks.screened import Screened

_SHOWN_TESTS = 3
AGAIN = "oracle again"


@dataclass(frozen=True)
class Check:
    """One expectation of one task. ``reward`` is None when nothing could be graded; ``problem`` says what failed;
    ``said``: the last words of the tests, where the reward is less than 1."""

    name: str
    """``oracle``, ``oracle again`` (where a script or another language's runner decides), ``no-op``,
    ``honest/<file>`` or ``cheat/<file>``."""
    expected: str
    """In words."""
    ok: bool
    reward: float | None
    problem: str | None
    said: str
    seconds: float


@dataclass(frozen=True)
class _Grade:
    """What came of one script. Fields as of ``Check``."""

    reward: float | None
    problem: str | None
    said: str
    seconds: float


@dataclass(frozen=True)
class TaskReport:
    task: str
    path: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def flaky(self) -> bool:
        """Whether its own solution scored once, and otherwise when it was tried again."""
        found = {check.name: check for check in self.checks}
        return found["oracle"].ok and AGAIN in found and not found[AGAIN].ok


@dataclass(frozen=True)
class VerifyReport:
    """All checks of all tasks; ``invalid`` are the directories that could not be loaded, with the reason."""

    tasks: tuple[TaskReport, ...]
    invalid: tuple[str, ...]
    isolation: str

    @property
    def ok(self) -> bool:
        return not self.invalid and all(task.ok for task in self.tasks)

    @property
    def flaky(self) -> tuple[str, ...]:
        """Ids of the flaky ones."""
        return tuple(task.task for task in self.tasks if task.flaky)

    def to_json(self) -> dict[str, object]:
        """Plain data for ``--json``."""
        return {
            "ok": self.ok,
            "isolation": self.isolation,
            "tasks": [
                {
                    "task": report.task,
                    "path": report.path,
                    "ok": report.ok,
                    "flaky": report.flaky,
                    "checks": [asdict(check) for check in report.checks],
                }
                for report in self.tasks
            ],
            "flaky": list(self.flaky),
            "invalid": list(self.invalid),
        }


OnReport = Callable[[TaskReport], None]


async def verify(
    tasks: Sequence[Task],
    *,
    provider: SandboxProvider,
    verifier: Verifier,
    concurrency: int,
    memory_mib: int,
    pids: int = SandboxRequest.pids,
    invalid: Sequence[str] = (),
    on_report: OnReport | None = None,
) -> VerifyReport:
    """Check every task; at most ``concurrency`` sandboxes of agents at once, with ``memory_mib`` or what the task asks
    for, whatever is less. Failures become ``Check.problem``; what the machine lacks for all is raised
    (``MachineError``)."""
    gate = asyncio.Semaphore(concurrency)

    async def one(task: Task) -> TaskReport:
        async def limited(name: str, script: Path | None) -> _Grade:
            async with gate:
                return await _grade(
                    task, name, script, provider=provider, verifier=verifier, memory_mib=memory_mib, pids=pids
                )

        scripts = scripts_of(task)
        if not steady(task):  # what it scores once it may not score again
            scripts[AGAIN] = scripts["oracle"]
        grades = await asyncio.gather(*(limited(*script) for script in scripts.items()))
        report = TaskReport(task.id, str(task.path), _checks(dict(zip(scripts, grades, strict=True))))
        if on_report is not None:
            on_report(report)
        return report

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(task)) for task in tasks]
    reports = tuple(task.result() for task in running)
    return VerifyReport(reports, tuple(invalid), provider.capabilities.isolation)


def scripts_of(task: Task) -> dict[str, Path | None]:
    """Name -> script (None: do nothing) of every check of a task."""
    found: dict[str, Path | None] = {"oracle": task.path / "solution" / "solve.sh", "no-op": None}
    for folder in ("honest", "cheat"):
        found.update({f"{folder}/{script.name}": script for script in sorted((task.path / folder).glob("*.sh"))})
    return found


def steady(task: Task) -> bool:
    """Whether one verdict on its solution is enough: its tests were measured by the test kit when it was made."""
    return bool(task.expected_ids) and task.suite is None


def _checks(grades: dict[str, _Grade]) -> tuple[Check, ...]:
    """Doing nothing may earn part of the points: what counts is that the best is above it."""
    nothing, best = grades["no-op"].reward, grades["oracle"].reward
    checks = []
    for name, grade in grades.items():
        reward = grade.reward
        if name == "oracle":
            expected = f"more than {nothing or 0:g}, which doing nothing scores"
            ok = reward is not None and nothing is not None and reward > nothing
        elif name == AGAIN:
            expected = f"{0 if best is None else best:g}, as before"
            ok = reward is not None and reward == best
        elif name == "no-op":
            expected = "less than 1"
            ok = reward is not None and reward < 1
        elif name.startswith("honest/"):
            expected = f"{1 if best is None else best:g}, as the solution"
            ok = reward is not None and reward >= (1 if best is None else best)
        else:
            expected = f"{nothing or 0:g}, as doing nothing"
            ok = reward is not None and reward <= (nothing or 0)
        checks.append(Check(name, expected, ok, **asdict(grade)))
    return tuple(checks)


async def _grade(
    task: Task,
    name: str,
    script: Path | None,
    *,
    provider: SandboxProvider,
    verifier: Verifier,
    memory_mib: int,
    pids: int,
) -> _Grade:
    """Run one script as the agent of ``task`` (None: do nothing) and grade what it leaves."""
    began = time.monotonic()
    problem: str | None = None
    verdict: Verdict | None = None
    if script is not None and not script.is_file():
        problem = f"no {script.relative_to(task.path)}"
    else:
        box = f"verify-{task.id}-{name.replace('/', '-')}"[:120]
        try:
            made = await attempt(task, script, provider=provider, name=box, memory_mib=memory_mib, pids=pids)
            problem = made.problem
            verdict = await verifier.grade(task, made.artifacts)
        except TrialError as error:
            problem = f"{error.termination.value}: {error}"
        except (UserError, ImageError) as error:  # the task's own: others go on
            problem = str(error)
    reward = verdict.reward if verdict is not None else None
    return _Grade(reward, problem, _said(verdict), round(time.monotonic() - began, 3))


def _said(verdict: Verdict | None) -> str:
    """Why there is less than a point: the last lines of ``test.sh``, or the tests that did not pass."""
    if verdict is None or verdict.reward >= 1:
        return ""
    if verdict.status == "tampered":
        return "look-alike tests passed, which no honest work passes"
    if verdict.outcomes:
        wrong = [f"{test} {outcome}" for test, outcome in verdict.outcomes.items() if outcome != "passed"]
        more = [f"{len(wrong) - _SHOWN_TESTS} more"] if len(wrong) > _SHOWN_TESTS else []
        words = _of_the_runner(verdict) if set(verdict.outcomes.values()) == {"missing"} else ""
        return ", ".join([*wrong[:_SHOWN_TESTS], *more]) + (f"; the runner said: {words}" if words else "")
    try:
        raw = json.loads(verdict.raw)
        return str(raw.get("problem") or last_words(raw.get("stdout", ""), raw.get("stderr", "")))
    except (ValueError, AttributeError):
        return ""


def _of_the_runner(verdict: Verdict) -> str:
    """What a suite printed where no test came to an end: mostly that it could not be started, or nothing be built."""
    try:
        raw = json.loads(verdict.raw)
        return last_words("", str((raw.get("runs") or [raw])[-1].get("said", "")))
    except (ValueError, AttributeError, TypeError):
        return ""


async def screen(
    tasks: Sequence[Task],
    *,
    provider: SandboxProvider,
    verifier: Verifier,
    concurrency: int,
    memory_mib: int,
    pids: int = SandboxRequest.pids,
    on_problem: Callable[[str], None],
    screened: Screened | None = None,
) -> list[Task]:
    """The tasks that can teach something where they will be graded; the others are named and left out.

    A task's own solution must score more than doing nothing, and the same twice where a script of the task's own
    decides. screened: verdicts of earlier runs. Without a solution, doing nothing must leave something to gain,
    and the task must ask for nothing that only a solution could show to be there.
    """
    gate = asyncio.Semaphore(concurrency)
    ungraded: set[str] = set()  # for what may be the machine's fault, which is no fact about the task

    async def why_not(task: Task) -> str | None:
        async def limited(name: str, script: Path | None) -> _Grade:
            async with gate:
                return await _grade(
                    task, name, script, provider=provider, verifier=verifier, memory_mib=memory_mib, pids=pids
                )

        promises = unproven(task, memory_mib=memory_mib)
        if task.solve_script is None and promises:
            return f"asks for what no solution shows to be there: {'; '.join(promises)}"
        nothing = await limited("no-op", None)
        if nothing.reward is None:
            ungraded.add(task.id)
            return nothing.problem
        if nothing.reward >= 1:
            return f"doing nothing scores {nothing.reward:g}, so it can teach nothing"
        if task.solve_script is None:
            return None
        best = await limited("oracle", task.solve_script)
        if best.reward is not None and best.reward > nothing.reward:
            if steady(task):
                return None
            again = await limited(AGAIN, task.solve_script)
            if again.reward == best.reward:
                return None
            second = "got no grade" if again.reward is None else f"scored {again.reward:g}"
            causes = [again.problem, f"the tests said last: {again.said}" if again.said else None]
            why = "; ".join(cause for cause in causes if cause)
            return f"flaky: its own solution scored {best.reward:g}, and then {second}" + (f"; {why}" if why else "")
        if best.reward is None:
            ungraded.add(task.id)
        scored = "gets no grade" if best.reward is None else f"scores {best.reward:g}"
        beside = f", doing nothing {nothing.reward:g}" if best.reward is not None else ""
        causes = [best.problem, f"the tests said last: {best.said}" if best.said else None, *promises]
        return f"its own solution {scored}{beside}; " + "; ".join(cause for cause in causes if cause)

    async def usable(task: Task) -> bool:
        known, why = screened.get(task) if screened is not None else (False, None)
        if task.by_log and (unreadable := why_unreadable(task)) is not None:  # here, whatever an earlier run found
            known, why = True, unreadable
        if not known:
            ungraded.discard(task.id)
            why = await why_not(task)
            if screened is not None and task.id not in ungraded:
                screened.put(task, why)
        if why is not None:
            on_problem(f"{task.path}: {why}")
        return why is None

    stays = await asyncio.gather(*map(usable, tasks))
    return [task for task, stay in zip(tasks, stays, strict=True) if stay]


def unproven(task: Task, *, memory_mib: int) -> tuple[str, ...]:
    """What a task asks for and its boxes may lack."""
    wanted = task.config.environment.memory_mb or 0
    if wanted <= memory_mib:
        return task.promises
    return (*task.promises, f"environment.memory_mb = {wanted}, but environment.memory_mib is {memory_mib}")
