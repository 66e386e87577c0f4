"""A box as the agent gets it for a task, for a person in the agent's place. What is left there can be judged like an
agent's work. Knows nothing of models: there is none in the box."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from runtime.agent_loop.boxes import agent_box
from runtime.agent_loop.services import make_scaffold
from runtime.config import RuntimeConfig
from runtime.errors import RunError, TrialError
from runtime.grading.base import Verdict
from runtime.grading.difference import collect
from runtime.sandboxes.base import Sandbox
from runtime.task import Task
from runtime.tasks.graders import graders


async def look_into(
    task: Task, config: RuntimeConfig, look: Callable[[Sandbox, Task], Awaitable[object]], *, grade: bool
) -> Verdict | None:
    """Make the box, call ``look``, and judge what it left; None without ``grade``. Raises ``RunError``."""
    scaffold = make_scaffold(config.scaffold)
    request = agent_box(
        task, config.environment, name=f"shell-{task.id}", scaffold=scaffold, settings=config.scaffold, forward=None
    )
    with tempfile.TemporaryDirectory(prefix="liverl-shell-") as state:
        async with graders(config.environment, state=Path(state)) as (provider, verifier):
            try:
                sandbox = await provider.start(request)
                try:
                    await look(sandbox, task)
                    work = await collect(task, sandbox) if grade else {}
                finally:
                    await sandbox.stop()
                return await verifier.grade(task, work) if grade else None
            except TrialError as error:
                raise RunError(f"{task.id}: {error.termination.value}: {error}") from error
