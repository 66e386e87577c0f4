"""The built-in ``shell`` scaffold: starts the agent program of this folder inside the sandbox and reads how it ended.

Its tools are a tool set of ``runtime/parts.py``: ``free`` (read, edit, write, run, for real models) or ``repair``
(structured, for small policies). The scaffold knows the program's settings and its last line; it does not know tokens,
rewards or sandbox backends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from runtime.config import ShellScaffold as ShellSettings
from runtime.errors import Termination
from runtime.parts import part
from runtime.sandboxes.base import ExecResult, Mount, Sandbox
from runtime.scaffolds.base import AgentFailure, AgentOutcome, ModelEndpoint, Rehearsal
from runtime.scaffolds.shell.agent import EX_UNAVAILABLE
from runtime.scaffolds.shell.looks import Looks
from runtime.task import Task

_HERE = Path(__file__).parent
LIVERL = PurePosixPath("/opt/liverl")
SHELL = "shell"
_LEAST_SEC = 0.1


class ToolSet(Protocol):
    """A module of programs for inside the sandbox, imported on the host for its schemas."""

    SCHEMAS: list[dict[str, Any]]
    """Tools as the model is told of them, in OpenAI's form."""
    REHEARSAL: tuple[tuple[str, Mapping[str, str]], ...]
    """Calls that change nothing and end the trial (``runtime.scaffolds.base.Rehearsal``)."""
    open_tools: Any
    """(root, settings) -> ``runtime.scaffolds.shell.agent.Tools``."""
    __file__: str
    __name__: str


def tool_set(name: str) -> ToolSet:
    """The tool set that ``scaffold.tools`` names."""
    found: ToolSet = part("tool_sets", name)
    return found


class ShellScaffold:
    """Implements ``runtime.scaffolds.base.Scaffold``."""

    def __init__(self, settings: ShellSettings) -> None:
        self.settings = settings
        module = tool_set(settings.tools)
        self._tools = Path(module.__file__)
        self._folder = SHELL if self._tools.parent == _HERE else settings.tools
        self._looks = Looks()

    @property
    def mounts(self) -> tuple[Mount, ...]:
        folders = {SHELL: _HERE, self._folder: self._tools.parent}
        return tuple(Mount(path, str(LIVERL / name)) for name, path in folders.items())

    @property
    def rehearsal(self) -> Rehearsal:
        found = tool_set(self.settings.tools)
        return Rehearsal(found.SCHEMAS, found.REHEARSAL)

    async def run(self, task: Task, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        """Raises ``TimeoutError`` after ``timeout_sec``, ``AgentFailure`` when the agent crashed or had no model."""
        begun, settings = time.monotonic(), self.settings_for(task, endpoint)
        if self.settings.first_look is not None:

            async def look() -> str | None:
                return await self._look(task, sandbox, settings, timeout_sec=timeout_sec)

            settings["opening"] = await self._looks.of(str(task.path), look, timeout_sec=timeout_sec)
            timeout_sec -= time.monotonic() - begun
        result = await self._start(task, sandbox, settings, timeout_sec=max(timeout_sec, _LEAST_SEC))
        logs = {"stdout.txt": result.stdout, "stderr.txt": result.stderr}
        if result.exit_code == EX_UNAVAILABLE:
            why = result.stdout.decode(errors="replace").strip()[-300:]
            raise AgentFailure(Termination.MODEL_UNAVAILABLE, why, logs=logs)
        try:
            report = json.loads(result.stdout.splitlines()[-1]) if result.exit_code == 0 else None
            termination = Termination(report["termination"]) if report else Termination.AGENT_CRASHED
            metrics = {key: float(report[key]) for key in ("turns", "edits", "tool_sec", "total_sec")} if report else {}
        except (ValueError, LookupError, TypeError) as error:
            why = f"the agent's last line is no report: {error}"
            raise AgentFailure(Termination.AGENT_CRASHED, why, logs=logs) from error
        if report is None:
            tail = result.stderr.decode(errors="replace").strip()[-500:]
            why = f"the agent ended with {result.exit_code}: {tail}"
            raise AgentFailure(Termination.AGENT_CRASHED, why, logs=logs)
        return AgentOutcome(termination=termination, logs=logs, metrics=metrics)

    async def _look(self, task: Task, sandbox: Sandbox, settings: dict[str, Any], *, timeout_sec: float) -> str | None:
        """What an agent is shown of ``task`` first; None where that could not be found out."""
        result = await self._start(task, sandbox, {**settings, "look": True}, timeout_sec=timeout_sec)
        try:
            return str(json.loads(result.stdout.splitlines()[-1])) if result.exit_code == 0 else None
        except (ValueError, LookupError):
            return None

    @staticmethod
    def order(settings: Mapping[str, Any]) -> bytes:
        """The first line of standard input of the programs of this folder: Linux starts none with an argument or a
        variable of 128 KiB, and instructions may be longer."""
        return json.dumps(settings).encode() + b"\n"

    async def _start(self, task: Task, sandbox: Sandbox, settings: dict[str, Any], *, timeout_sec: float) -> ExecResult:
        return await sandbox.exec(
            ["python3", *(("-s", "-P") if task.liverl.image else ("-I", "-S")), "-B", str(LIVERL / SHELL / "agent.py")],
            stdin=self.order(settings),
            timeout_sec=timeout_sec,
        )

    def settings_for(self, task: Task, endpoint: ModelEndpoint) -> dict[str, Any]:
        """What the agent program is told (``order``)."""
        liverl = task.liverl
        return {
            "base_url": endpoint.base_url,
            "secret": endpoint.secret,
            "model": endpoint.model,
            "instruction": task.instruction.strip(),
            "toolset": [self._folder, self._tools.stem],
            "max_turns": self.settings.max_turns,
            "max_edits": self.settings.max_edits,
            "max_observation": self.settings.max_observation,
            "first_look": None if self.settings.first_look is None else self.settings.first_look.model_dump(),
            "test_after_edit": self.settings.test_after_edit,
            "undo_failed_edits": self.settings.undo_failed_edits,
            "edit_match": self.settings.edit_match,
            "max_refusals": self.settings.max_refusals,
            "runner": liverl.runner,
            "ids": None if task.suite is not None else list(task.expected_ids) or None,  # of the test kit
            "sources": list(liverl.source_files),
            "python_path": [f"{task.config.environment.workdir}/{folder}" for folder in liverl.python_path],
        }
