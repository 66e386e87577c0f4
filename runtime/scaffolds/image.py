"""Fills a container image with a coding agent, so that pods need not be sent it: installs what a spec's scaffold names
and copies it to where sandboxes look for it.

    python -m runtime.scaffolds.image '{"type": "claude-code", ...}' /opt/agent

Run while the image is built (``agent.Dockerfile`` of a bundle for Kubernetes). Knows mounts, not agents.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter

from runtime.config import AgentScaffold
from runtime.sandboxes.base import AGENT
from runtime.scaffolds.agents import make_agent
from runtime.scaffolds.base import Scaffold


def fill(scaffold: Scaffold, folder: Path) -> None:
    """Copy all that ``scaffold`` shows in a sandbox into ``folder``, links resolved."""
    for mount in scaffold.mounts:
        target = folder / PurePosixPath(mount.target).relative_to(AGENT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if mount.source.is_dir():
            shutil.copytree(mount.source, target, dirs_exist_ok=True)
        else:
            shutil.copy(mount.source, target)


if __name__ == "__main__":
    settings: AgentScaffold = TypeAdapter(AgentScaffold).validate_json(sys.argv[1])
    fill(make_agent(settings), Path(sys.argv[2]))
