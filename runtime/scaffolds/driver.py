"""Agents that are Python libraries: a driver program of ours (``drivers/``) runs them inside the sandbox, on a Python
of their own, and says at the end how it went.

Python with its libraries (``carried.py``), packages and driver are shown read-only; of the image nothing is needed but
a shell. Knows no particular agent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import MachineError, Termination
from runtime.sandboxes.base import Mount, Sandbox
from runtime.scaffolds import carried
from runtime.scaffolds.base import AgentOutcome, ModelEndpoint
from runtime.scaffolds.command import Ended, run_logged
from runtime.scaffolds.install import Package, find_python, how_to_get
from runtime.task import Task

ROOT = "/opt/agent"
CONSTRAINTS = Path(__file__).parent / "constraints"
# Thousands of modules are imported, none of which is garbage: without the collector that takes a third less time.
_BOOT = (
    "import gc, sys; gc.disable(); sys.path += [{packages!r}, {root!r}]; from drivers import {module}; "
    "gc.freeze(); gc.enable(); {module}.main()"
)
_ENVIRONMENT = {
    # Loading its own list of models from the network would take it half a minute of timeouts in a box.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "DO_NOT_TRACK": "1",
    "OPENHANDS_SUPPRESS_BANNER": "1",
    "MALLOC_ARENA_MAX": "2",  # each of its threads would reserve addresses of its own
}
_FAILURES = (Termination.MODEL_UNAVAILABLE, Termination.AGENT_CRASHED)
_ENDS = (Termination.COMPLETED, Termination.MAX_TURNS, Termination.NO_TOOL, Termination.OVERLONG)


@dataclass(frozen=True)
class Limits:
    """What ends a trial besides its time and its tokens."""

    max_turns: int
    max_replies_without_tool: int


class Driver:
    """One driver with its packages and its Python. ``folder``: where pip put the packages of ``package``."""

    def __init__(self, module: str, package: Package, folder: Path) -> None:
        python = find_python(package.python)
        if python is None:
            raise MachineError(f"agent {package.name}: {package.program} is not installed", fix=how_to_get(package))
        self._module = module
        self._folder = folder
        self._name = f"python3.{python.minor}"
        self._prefix = python.prefix or Path(sys.base_prefix)
        program = (self._prefix / "bin" / self._name).resolve()
        modules = (self._prefix / "lib" / self._name / "lib-dynload").glob("*.so")
        compiled = [*sorted(modules), *sorted(folder.rglob("*.so"))]
        self._program = program.name
        self._carried = carried.carried(package.name, [program, *carried.bash()], cache=folder.parent, users=compiled)

    @property
    def mounts(self) -> tuple[Mount, ...]:
        # Not the whole prefix: that of a system's Python is /usr.
        return (
            Mount(self._folder, f"{ROOT}/packages"),
            Mount(Path(__file__).parent / "drivers", f"{ROOT}/drivers"),
            Mount(self._carried / "bin" / self._program, f"{ROOT}/python/bin/{self._name}"),
            Mount((self._prefix / "lib" / self._name).resolve(), f"{ROOT}/python/lib/{self._name}"),
            *carried.mounts(self._carried),
        )

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        endpoint: ModelEndpoint,
        *,
        limits: Limits,
        options: Mapping[str, Any],
        env: Mapping[str, str],
        timeout_sec: float,
    ) -> AgentOutcome:
        """``options``: the agent's own settings, as its driver reads them. Raises ``AgentFailure``."""
        order = {
            "instruction": task.instruction.strip(),
            "base_url": f"{endpoint.base_url}/v1",
            "secret": endpoint.secret,
            "model": endpoint.model,
            "max_turns": limits.max_turns,
            "max_replies_without_tool": limits.max_replies_without_tool,
            "timeout_sec": timeout_sec,
            "options": dict(options),
        }
        boot = _BOOT.format(packages=f"{ROOT}/packages", root=ROOT, module=self._module)
        path = {} if task.work.image is None else {"PATH": carried.path(task.work.image)}
        ended = await run_logged(
            sandbox,
            [f"{ROOT}/python/bin/{self._name}", "-I", "-S", "-B", "-c", boot],
            env={**_ENVIRONMENT, **path, **env},
            endpoint=endpoint,
            stdin=json.dumps(order).encode(),
            timeout_sec=timeout_sec,
        )
        return outcome(ended)


def constraints(release: str) -> Path | None:
    """The versions that ``release`` (``harbor-0.24.0``) was run with; None: it has not been, pip decides."""
    path = CONSTRAINTS / f"{release}.txt"
    return path if path.exists() else None


def outcome(ended: Ended) -> AgentOutcome:
    """What the closing line says. Raises ``AgentFailure``: without such a line the driver crashed.

    The agent's commands can write to the same log, so nothing about the line is taken for granted.
    """
    try:
        line = _closing_line(ended.stdout)
        termination, detail = Termination(line["termination"]), str(line["detail"])[:500]
        numbers = {"turns": line["turns"], **line["metrics"]}
        metrics = {str(name): float(number) for name, number in numbers.items()}
    except (ValueError, KeyError, TypeError):
        raise ended.crashed() from None
    if termination in _FAILURES:
        raise ended.failure(termination, f"the agent ended with {detail}")
    if termination not in _ENDS:
        raise ended.crashed()
    return AgentOutcome(termination, ended.logs, metrics)


def _closing_line(stdout: bytes) -> dict[str, Any]:
    """The last line, if a driver wrote it (``drivers/report.py``), else a ``ValueError``."""
    line = json.loads(stdout.rstrip().rpartition(b"\n")[2])
    if not isinstance(line, dict) or line.get("type") != "end":
        raise ValueError("no closing line")
    return line
