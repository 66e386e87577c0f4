"""An agent of the OpenHands SDK, with the SDK's own prompt and tools, against the proxy's OpenAI endpoint.

Observed on version 1.57.0. Knows which settings the driver takes, not the SDK.
"""

from __future__ import annotations

from pathlib import Path

from runtime.config import OpenHandsSdkScaffold as Settings
from runtime.sandboxes.base import Mount, Sandbox
from runtime.scaffolds.base import AgentOutcome, ModelEndpoint
from runtime.scaffolds.driver import ROOT, Driver, Limits, constraints
from runtime.scaffolds.install import Package
from runtime.task import Task


class OpenHandsSdk:
    """Implements ``runtime.scaffolds.base.Scaffold``."""

    needs = Settings.needs

    def __init__(self, settings: Settings, package: Package, folder: Path) -> None:
        self._driver = Driver("openhands_sdk", package, folder)
        self._limits = Limits(settings.max_turns, settings.max_replies_without_tool)
        self._options = {"tools": settings.tools, "compact_tokens": settings.compact_tokens}

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return self._driver.mounts

    async def run(self, task: Task, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        """Raises ``AgentFailure`` when the agent crashed, ran out of time or had no model."""
        return await self._driver.run(
            task,
            sandbox,
            endpoint,
            limits=self._limits,
            options=self._options,
            env={"INPUTRC": f"{ROOT}/drivers/inputrc"},
            timeout_sec=timeout_sec,
        )


def package(settings: Settings) -> Package:
    """What it is installed from: the SDK and its tools are released together."""
    version = settings.version
    pins = (f"openhands-sdk=={version}", f"openhands-tools=={version}")
    return Package("openhands-sdk", "pip", pins, python=12, constraints=constraints(f"openhands-sdk-{version}"))
