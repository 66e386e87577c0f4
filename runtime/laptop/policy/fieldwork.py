"""Surveys tasks in sandboxes of their own: for repositories whose code must not run in this process.

Knows the sandbox provider and the survey program; does not know what surveys are used for.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from runtime.config import Environment
from runtime.errors import TrialError
from runtime.laptop.policy.demonstrations import Ground
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import SandboxProvider, SandboxRequest
from runtime.scaffolds.base import ModelEndpoint
from runtime.scaffolds.shell import LIVERL, ShellScaffold
from runtime.task import Task

SURVEY_SEC: Final = 180.0
_NOWHERE: Final = ModelEndpoint(base_url="", secret="")


def survey_tasks(
    tasks: Sequence[Task],
    scaffold: ShellScaffold,
    *,
    environment: Environment,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[Ground | None]:
    """One survey per task, in order; None where it failed (the failure is said through ``on_progress``)."""
    with tempfile.TemporaryDirectory(prefix="liverl-survey-") as state:
        return asyncio.run(_survey_all(tasks, scaffold, environment, Path(state), on_progress))


async def _survey_all(
    tasks: Sequence[Task], scaffold: ShellScaffold, environment: Environment, state: Path, say: Callable[[str], None]
) -> list[Ground | None]:
    provider = make_provider(environment, state=state)
    gate = asyncio.Semaphore(2 * (os.cpu_count() or 1))
    finished = 0

    async def one(task: Task) -> Ground | None:
        nonlocal finished
        async with gate:
            try:
                ground = await _survey(task, scaffold, provider, environment)
            except (TrialError, TimeoutError, ValueError) as error:
                say(f"{task.id}: not surveyed: {type(error).__name__}: {error}")
                ground = None
            finished += 1
            if finished % 20 == 0:
                say(f"surveyed {finished} of {len(tasks)} tasks")
            return ground

    try:
        return list(await asyncio.gather(*map(one, tasks)))
    finally:
        await provider.close()


async def _survey(task: Task, scaffold: ShellScaffold, provider: SandboxProvider, environment: Environment) -> Ground:
    sandbox = await provider.start(
        SandboxRequest(
            name=f"survey-{task.id}",
            lower=task.repository,
            workdir=task.config.environment.workdir,
            mounts=scaffold.mounts,
            image=task.liverl.image,
            memory_mib=environment.memory_mib,
            pids=environment.pids,
        )
    )
    try:
        result = await sandbox.exec(
            ["python3", "-s", "-P", "-B", str(LIVERL / scaffold.settings.tools / "survey.py")],
            env={"LIVERL_AGENT": json.dumps(scaffold.settings_for(task, _NOWHERE))},
            timeout_sec=SURVEY_SEC,
            max_output=8 << 20,
        )
    finally:
        await sandbox.stop()
    if result.exit_code != 0:
        raise ValueError(f"exit code {result.exit_code}: {result.stderr.decode(errors='replace')[-300:]}")
    survey: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return Ground(task.instruction.strip(), survey, task.liverl.family)
