"""Proves tasks: the known repair scores 1, doing nothing 0, every honest script 1, every cheat 0.

Each script runs as the agent would, in a sandbox of its own, and what it leaves is graded by the real verifier. Works
with any sandbox provider; does not know how tasks were made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.errors import TrialError
from runtime.grading.base import Verifier
from runtime.grading.difference import collect
from runtime.sandboxes.base import ArtifactsRefused, Mount, SandboxProvider, SandboxRequest
from runtime.sandboxes.entries import Entry
from runtime.task import Task

_SCRIPTS = "/opt/liverl-scripts"


@dataclass(frozen=True)
class Check:
    """One expectation of one task. ``reward`` is None when nothing could be graded; ``problem`` says why, or what
    failed."""

    name: str
    """``oracle``, ``no-op``, ``honest/<file>`` or ``cheat/<file>``."""
    expected: float
    reward: float | None
    problem: str | None
    seconds: float

    @property
    def ok(self) -> bool:
        return self.reward is not None and max(0.0, self.reward) == self.expected


@dataclass(frozen=True)
class TaskReport:
    task: str
    path: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


@dataclass(frozen=True)
class VerifyReport:
    """All checks of all tasks; ``invalid`` are the directories that could not be loaded, with the reason."""

    tasks: tuple[TaskReport, ...]
    invalid: tuple[str, ...]
    isolation: str

    @property
    def ok(self) -> bool:
        return not self.invalid and all(task.ok for task in self.tasks)

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
                    "checks": [asdict(check) | {"ok": check.ok} for check in report.checks],
                }
                for report in self.tasks
            ],
            "invalid": list(self.invalid),
        }


OnReport = Callable[[TaskReport], None]


async def verify(
    tasks: Sequence[Task],
    *,
    provider: SandboxProvider,
    verifier: Verifier,
    concurrency: int,
    invalid: Sequence[str] = (),
    on_report: OnReport | None = None,
) -> VerifyReport:
    """Check every task; at most ``concurrency`` sandboxes of agents at once. Failures become ``Check.problem``, not
    errors."""
    gate = asyncio.Semaphore(concurrency)

    async def one(task: Task) -> TaskReport:
        async def limited(name: str, script: Path | None, expected: float) -> Check:
            async with gate:
                return await check(task, name, script, expected, provider=provider, verifier=verifier)

        checks = await asyncio.gather(*(limited(*expectation) for expectation in expectations(task)))
        report = TaskReport(task.id, str(task.path), tuple(checks))
        if on_report is not None:
            on_report(report)
        return report

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(task)) for task in tasks]
    reports = tuple(task.result() for task in running)
    return VerifyReport(reports, tuple(invalid), provider.capabilities.isolation)


def expectations(task: Task) -> list[tuple[str, Path | None, float]]:
    """(name, script or None for doing nothing, expected reward) of every check of a task."""
    found: list[tuple[str, Path | None, float]] = [
        ("oracle", task.path / "solution" / "solve.sh", 1.0),
        ("no-op", None, 0.0),
    ]
    for folder, expected in (("honest", 1.0), ("cheat", 0.0)):
        found += [(f"{folder}/{script.name}", script, expected) for script in sorted((task.path / folder).glob("*.sh"))]
    return found


async def check(
    task: Task, name: str, script: Path | None, expected: float, *, provider: SandboxProvider, verifier: Verifier
) -> Check:
    """Run one script as the agent of ``task`` (None: do nothing) and grade what it leaves."""
    began = time.monotonic()
    problem: str | None = None
    reward: float | None = None
    if script is not None and not script.is_file():
        problem = f"no {script.relative_to(task.path)}"
    else:
        try:
            artifacts, problem = await _act(task, name, script, provider)
            reward = (await verifier.grade(task, artifacts)).reward
        except TrialError as error:
            problem = f"{error.termination.value}: {error}"
    return Check(name, expected, reward, problem, round(time.monotonic() - began, 3))


async def _act(
    task: Task, name: str, script: Path | None, provider: SandboxProvider
) -> tuple[dict[str, Entry], str | None]:
    """(artifacts, what went wrong with the script). A script that fails or overruns is graded all the same, as an
    agent is."""
    workdir = task.config.environment.workdir
    request = SandboxRequest(
        name=f"verify-{task.id}-{name.replace('/', '-')}"[:120],
        lower=task.repository,
        workdir=workdir,
        mounts=(Mount(script.parent, _SCRIPTS),) if script is not None else (),
        memory_mib=task.config.environment.memory_mb,
        image=task.liverl.image,
    )
    sandbox = await provider.start(request)
    problem: str | None = None
    try:
        if script is not None:
            # A script from elsewhere is written for the shell that its first line names.
            shell = "bash" if b"bash" in script.read_bytes().partition(b"\n")[0] else "sh"
            command = [shell, f"{_SCRIPTS}/{script.name}"]
            try:
                result = await sandbox.exec(command, cwd=workdir, timeout_sec=task.config.agent.timeout_sec)
                if result.exit_code != 0:
                    last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
                    problem = f"{script.name} ended with {result.exit_code}: {''.join(last)[:200]}"
            except TimeoutError:
                problem = f"{script.name} was stopped after {task.config.agent.timeout_sec:.0f} s"
        try:
            return await collect(task, sandbox), problem
        except ArtifactsRefused as refused:
            return {}, str(refused)
    finally:
        await asyncio.shield(sandbox.stop())


async def screen(
    tasks: Sequence[Task],
    *,
    provider: SandboxProvider,
    verifier: Verifier,
    concurrency: int,
    on_problem: Callable[[str], None],
) -> list[Task]:
    """The tasks whose verifier gives a grade, and no reward for doing nothing; the others are named and left out."""
    gate = asyncio.Semaphore(concurrency)

    async def graded(task: Task) -> bool:
        async with gate:
            result = await check(task, "no-op", None, 0.0, provider=provider, verifier=verifier)
        if result.reward is None:
            on_problem(f"{task.path}: {result.problem}")
        elif result.reward > 0:
            on_problem(f"{task.path}: doing nothing scores {result.reward:g}, so it can teach nothing")
        return result.ok

    usable = await asyncio.gather(*(graded(task) for task in tasks))
    return [task for task, ok in zip(tasks, usable, strict=True) if ok]
