"""Many tasks' boxes, each as the agent would get it, for programs that look into them without a model.

Knows boxes and the shell scaffold's way of being told its settings; not what the programs do.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from runtime.agent_loop.boxes import agent_box
from runtime.config import Environment
from runtime.errors import TrialError
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import Sandbox
from runtime.scaffolds.base import ModelEndpoint
from runtime.scaffolds.shell import ShellScaffold
from runtime.task import Task
from runtime.tasks.graders import in_own_loop

_T = TypeVar("_T")
_NOWHERE = ModelEndpoint(base_url="", secret="")
_SAY_EVERY = 20


def visit(
    tasks: Sequence[Task],
    scaffold: ShellScaffold,
    look: Callable[[Sandbox, Task], Awaitable[_T]],
    *,
    environment: Environment,
    done: str,
    say: Callable[[str], None],
) -> list[_T | None]:
    """What ``look`` finds in a box of each task, in order; None where it failed, which is said. ``done``: its work in
    one word, for people."""
    with tempfile.TemporaryDirectory(prefix="liverl-visits-") as state:
        return in_own_loop(_all(tasks, scaffold, look, environment, Path(state), done, say))


async def _all(
    tasks: Sequence[Task],
    scaffold: ShellScaffold,
    look: Callable[[Sandbox, Task], Awaitable[_T]],
    environment: Environment,
    state: Path,
    done: str,
    say: Callable[[str], None],
) -> list[_T | None]:
    provider = make_provider(environment, state=state)
    gate = asyncio.Semaphore(len(os.sched_getaffinity(0)))
    finished = 0

    async def one(task: Task) -> _T | None:
        nonlocal finished
        found: _T | None = None
        box = agent_box(
            task, environment, name=f"visit-{task.id}", scaffold=scaffold, settings=scaffold.settings, forward=None
        )
        async with gate:
            try:
                sandbox = await provider.start(box)
                try:
                    found = await look(sandbox, task)
                finally:
                    await sandbox.stop()
            except (TrialError, TimeoutError, ValueError) as error:
                say(f"{task.id}: not {done}: {type(error).__name__}: {error}")
        finished += 1
        if finished % _SAY_EVERY == 0:
            say(f"{done} {finished} of {len(tasks)} tasks")
        return found

    try:
        return list(await asyncio.gather(*map(one, tasks)))
    finally:
        await provider.close()


async def ask(
    sandbox: Sandbox,
    task: Task,
    scaffold: ShellScaffold,
    program: PurePosixPath,
    *,
    stdin: bytes = b"",
    timeout_sec: float,
) -> Any:
    """The JSON of the last line that a program of the scaffold's prints. Raises ``ValueError`` when it fails."""
    result = await sandbox.exec(
        ["python3", "-s", "-P", "-B", str(program)],
        stdin=scaffold.order(scaffold.settings_for(task, _NOWHERE)) + stdin,
        timeout_sec=timeout_sec,
        max_output=8 << 20,
    )
    if result.exit_code != 0:
        raise ValueError(f"exit code {result.exit_code}: {result.stderr.decode(errors='replace')[-300:]}")
    return json.loads(result.stdout.splitlines()[-1])
