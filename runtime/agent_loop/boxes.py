"""The box that an agent gets for a task: one place says what is in it, for trials and for people who look inside."""

from __future__ import annotations

from runtime.config import Environment, InstalledScaffold
from runtime.config import Scaffold as ScaffoldSettings
from runtime.grading.task_scripts import mounts_of as task_mounts
from runtime.sandboxes.base import SandboxRequest
from runtime.scaffolds.base import Scaffold, mounts_of, needs_of
from runtime.task import Task


def agent_box(
    task: Task,
    environment: Environment,
    *,
    name: str,
    scaffold: Scaffold,
    settings: ScaffoldSettings,
    forward: tuple[str, int] | None,
) -> SandboxRequest:
    """``settings`` are the scaffold's; ``forward``: where the model proxy listens, None where there is none."""
    needs = needs_of(scaffold)
    brought_by = settings.runtime_image if isinstance(settings, InstalledScaffold) else None
    return SandboxRequest(
        name=name,
        lower=task.repository,
        workdir=task.config.environment.workdir,
        mounts=(*task_mounts(task), *mounts_of(scaffold, image=brought_by)),
        env=task.config.environment.env,
        root=task.root,
        image=task.liverl.image,
        forward=forward,
        memory_mib=task.memory_mib(environment.memory_mib) + needs.memory_mib,
        pids=environment.pids + needs.pids,
        limit_address_space=not needs.address_space,
    )
