"""Terminus 2, the agent of Harbor that types into a terminal, against the proxy's OpenAI endpoint.

Observed on Harbor 0.24.0. It needs a tmux, which is shown with its libraries (``tmux.py``). Knows which settings the
driver takes, not Harbor.
"""

from __future__ import annotations

from pathlib import Path

from runtime.config import Terminus2Scaffold as Settings
from runtime.sandboxes.base import Mount, Sandbox
from runtime.sandboxes.bwrap import PATH
from runtime.scaffolds import carried, tmux
from runtime.scaffolds.base import AgentOutcome, ModelEndpoint
from runtime.scaffolds.driver import ROOT, Driver, Limits, constraints
from runtime.scaffolds.install import Package
from runtime.task import Task


class Terminus2:
    """Implements ``runtime.scaffolds.base.Scaffold``."""

    needs = Settings.needs

    def __init__(self, settings: Settings, package: Package, folder: Path) -> None:
        self._driver = Driver("terminus_2", package, folder)
        self._tmux = tmux.bundle(folder.parent)
        self._limits = Limits(settings.max_turns, settings.max_replies_without_tool)
        self._options = {"parser": settings.parser, "compact_tokens": settings.compact_tokens}

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return (*self._driver.mounts, Mount(self._tmux, f"{ROOT}/tmux"))

    async def run(self, task: Task, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        """Raises ``AgentFailure`` when the agent crashed, ran out of time or had no model."""
        path = PATH if task.work.image is None else carried.path(task.work.image)
        return await self._driver.run(
            task,
            sandbox,
            endpoint,
            limits=self._limits,
            options=self._options,
            env={"PATH": f"{ROOT}/tmux/bin:{path}"},
            timeout_sec=timeout_sec,
        )


def package(settings: Settings) -> Package:
    """What it is installed from."""
    pins, versions = (f"harbor=={settings.version}",), constraints(f"harbor-{settings.version}")
    return Package("terminus-2", "pip", pins, python=12, constraints=versions)
