"""The published coding agents by their settings. A further agent adds one module, its settings in ``runtime.config``,
and one entry in each of the two functions here.
"""

from __future__ import annotations

from typing import assert_never

from runtime.config import AgentScaffold, ClaudeCodeScaffold, OpenHandsSdkScaffold, Terminus2Scaffold
from runtime.scaffolds import openhands_sdk, terminus_2
from runtime.scaffolds.base import Scaffold
from runtime.scaffolds.install import Package, install


def make_agent(settings: AgentScaffold) -> Scaffold:
    """The scaffold, its agent installed. Raises ``MachineError`` when it cannot be."""
    wanted = package(settings)
    folder = install(wanted)
    if isinstance(settings, ClaudeCodeScaffold):
        from runtime.scaffolds.claude_code import ClaudeCode

        return ClaudeCode(settings, folder)
    if isinstance(settings, OpenHandsSdkScaffold):
        return openhands_sdk.OpenHandsSdk(settings, wanted, folder)
    if isinstance(settings, Terminus2Scaffold):
        return terminus_2.Terminus2(settings, wanted, folder)
    assert_never(settings)


def package(settings: AgentScaffold) -> Package:
    """What the agent is installed from."""
    if isinstance(settings, ClaudeCodeScaffold):
        return Package("claude-code", "npm", (f"@anthropic-ai/claude-code@{settings.version}",))
    if isinstance(settings, OpenHandsSdkScaffold):
        return openhands_sdk.package(settings)
    if isinstance(settings, Terminus2Scaffold):
        return terminus_2.package(settings)
    assert_never(settings)
