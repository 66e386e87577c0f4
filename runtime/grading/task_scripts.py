"""A task's own scripts as Harbor runs them: ``/solution/solve.sh`` and ``/tests/test.sh``, by what their first line
names (or bash), from a writable copy of their folder.

Also what their boxes are made of, and what a solution leaves for the verifier. It grades nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.grading.difference import collect
from runtime.sandboxes.base import (
    TASK_FILES,
    ArtifactsRefused,
    ExecResult,
    Mount,
    Sandbox,
    SandboxProvider,
    SandboxRequest,
)
from runtime.sandboxes.entries import Entry
from runtime.task import Task

# The shell that is told a file's name, and not the file, runs a script without #! itself; the kernel runs the others.
_RUN = (
    'mkdir -p "$1" && cp -RP "$2/." "$1/" && chmod -R u+w "$1" && chmod +x "$1/$3" && '
    'PATH="${4:+$4:}$PATH" exec "$(command -v bash || echo sh)" -c \'"$0"\' "$1/$3"'
)
_SAID_LINES = 3
_SAID_CHARACTERS = 300


@dataclass(frozen=True)
class Attempt:
    """What a script left in the agent's box for the verifier, by path inside, and what went wrong with the script."""

    artifacts: Mapping[str, Entry] = field(default_factory=dict)
    problem: str | None = None


def mounts_of(task: Task) -> tuple[Mount, ...]:
    """What every box of the task shows besides the work directory."""
    hidden = task.work.hidden
    return tuple(Mount(source, target, hides=target in hidden) for source, target in task.work.elsewhere)


async def run_script(
    sandbox: Sandbox,
    script: str,
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    timeout_sec: float,
    programs: str = "",
) -> ExecResult:
    """Run ``/folder/name`` of a box that shows the folder below ``TASK_FILES``. Raises ``TimeoutError``. programs:
    folder inside that comes first on the script's path."""
    folder, _, name = script.rpartition("/")
    command = ["sh", "-c", _RUN, "liverl", folder, TASK_FILES + folder, name, programs]
    return await sandbox.exec(command, cwd=cwd, env=env, timeout_sec=timeout_sec)


async def attempt(
    task: Task,
    script: Path | None,
    *,
    provider: SandboxProvider,
    name: str,
    memory_mib: int,
    pids: int,
    folder: str = "/solution",
) -> Attempt:
    """Run a script as the task's agent would be run (None: do nothing). A script that fails or overruns is judged by
    what it leaves, as an agent is. Raises ``TrialError`` where the box fails.

    folder: where the script finds itself, with its neighbours. memory_mib, pids: what the run gives an agent.
    """
    workdir = task.config.environment.workdir
    shown = (Mount(script.parent, TASK_FILES + folder),) if script is not None else ()
    request = SandboxRequest(
        name=name,
        lower=task.repository,
        workdir=workdir,
        mounts=(*mounts_of(task), *shown),
        env=task.config.environment.env,
        root=task.root,
        memory_mib=task.memory_mib(memory_mib),
        pids=pids,
        image=task.liverl.image,
    )
    sandbox = await provider.start(request)
    problem: str | None = None
    try:
        if script is not None:
            problem = await _run(task, sandbox, f"{folder}/{script.name}")
        try:
            return Attempt(await collect(task, sandbox), problem)
        except ArtifactsRefused as refused:
            return Attempt(problem=str(refused))
    finally:
        await asyncio.shield(sandbox.stop())


async def _run(task: Task, sandbox: Sandbox, script: str) -> str | None:
    name = script.rpartition("/")[2]
    env = {"DEBIAN_FRONTEND": "noninteractive", **task.config.solution.env}
    limit = task.config.agent.timeout_sec
    try:
        result = await run_script(sandbox, script, env=env, cwd=task.config.environment.workdir, timeout_sec=limit)
    except TimeoutError:
        return f"{name} was stopped after {limit:.0f} s"
    if result.exit_code == 0:
        return None
    last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"{name} ended with {result.exit_code}: {''.join(last)[:200]}"


def last_words(stdout: str, stderr: str) -> str:
    """The last lines that a script wrote, on one line; "" for none."""
    lines = [line.strip() for stream in (stdout, stderr) for line in stream.splitlines() if line.strip()]
    return " / ".join(lines[-_SAID_LINES:])[-_SAID_CHARACTERS:]
