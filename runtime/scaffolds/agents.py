"""The published coding agents by their settings. A further agent adds one module, its settings in ``runtime.config``,
and one entry in each of the two functions here.
"""

from __future__ import annotations

from typing import assert_never

from runtime.config import (
    AgentScaffold,
    ClaudeCodeScaffold,
    MiniSweAgentScaffold,
    OpenCodeScaffold,
    OpenHandsSdkScaffold,
    Terminus2Scaffold,
)
from runtime.scaffolds import openhands_sdk, terminus_2
from runtime.scaffolds.base import Scaffold
from runtime.scaffolds.install import Package, install

LITELLM = "litellm==1.90.0"
"""mini-swe-agent leaves its client library's version open, and the newest ones cannot call a model with tools without
the package mcp, which they do not require (seen in 1.106.2)."""


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
    if isinstance(settings, OpenCodeScaffold):
        from runtime.scaffolds.opencode import OpenCode

        return OpenCode(settings, folder)
    if isinstance(settings, MiniSweAgentScaffold):
        from runtime.scaffolds.mini_swe_agent import MiniSweAgent

        return MiniSweAgent(settings, folder)
    assert_never(settings)


def package(settings: AgentScaffold) -> Package:
    """What the agent is installed from."""
    if isinstance(settings, ClaudeCodeScaffold):
        return Package("claude-code", "npm", (f"@anthropic-ai/claude-code@{settings.version}",))
    if isinstance(settings, OpenHandsSdkScaffold):
        return openhands_sdk.package(settings)
    if isinstance(settings, Terminus2Scaffold):
        return terminus_2.package(settings)
    if isinstance(settings, OpenCodeScaffold):
        return Package("opencode", "npm", (f"opencode-ai@{settings.version}",))
    if isinstance(settings, MiniSweAgentScaffold):
        return Package("mini-swe-agent", "pip", (f"mini-swe-agent=={settings.version}", LITELLM))
    assert_never(settings)
