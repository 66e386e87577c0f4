"""OpenCode, headless, against the proxy's OpenAI endpoint.

The npm package's native program is shown read-only in the sandbox and needs nothing of it. Flags, configuration and
events were observed on version 1.18.33. Knows the program's configuration and its events, not tokens or rewards.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from runtime.config import OpenCodeScaffold as Settings
from runtime.errors import MachineError, Termination
from runtime.sandboxes.base import Mount, Sandbox
from runtime.scaffolds import carried
from runtime.scaffolds.base import AgentOutcome, ModelEndpoint
from runtime.scaffolds.command import Ended, run_agent
from runtime.task import Task

PROGRAM = "/opt/agent/opencode"
NETWORK_TOOLS = ("webfetch", "websearch", "codesearch")
REQUEST_SEC = 3600
"""A reply may take this long: the proxy answers when it is complete, and the program's own limit is five minutes."""
_NO_TOOLS = ("external_directory", "doom_loop")
"""Permissions that are no tools: to work outside of the work directory, and to repeat a call."""
_GOES_ON = ("tool-calls", "unknown")
"""Why a reply ended that is not the last one."""
_PROVIDER = "liverl"
_OUTPUT_TOKENS = 32_000
"""What the program asks for when it knows no limit; the session's own is lower or equal."""
_ENVIRONMENT = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_EXPERIMENTAL_DISABLE_FILEWATCHER": "1",
    # Outside of the work directory and of the logs: a database of some MiB that nobody reads.
    "XDG_DATA_HOME": "/tmp/opencode/data",
    "XDG_STATE_HOME": "/tmp/opencode/state",
    "XDG_CACHE_HOME": "/tmp/opencode/cache",
    "XDG_CONFIG_HOME": "/tmp/opencode/config",
}


class OpenCode:
    """Implements ``runtime.scaffolds.base.Scaffold``. ``folder``: where npm installed the package."""

    needs = Settings.needs

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self._program = _native(folder / "node_modules")
        self._carried = carried.carried("opencode", [self._program, *carried.bash()], cache=folder.parent)

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return (Mount(self._carried / "bin" / self._program.name, PROGRAM), *carried.mounts(self._carried))

    async def run(self, task: Task, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        """Raises ``AgentFailure`` when the agent crashed, ran out of time or had no model."""
        # A title of our own spares the call in which the policy would have to make one up.
        argv = [PROGRAM, "run", "--pure", "--format", "json", "--title", task.id]
        argv += ["--model", f"{_PROVIDER}/{endpoint.model}"]
        return await run_agent(
            sandbox,
            argv if task.work.image is None else ["sh", "-c", carried.WITH_BASH, *argv],
            outcome=partial(outcome, max_turns=self.settings.max_turns),
            env={**_ENVIRONMENT, "OPENCODE_CONFIG_CONTENT": json.dumps(self.configuration(endpoint))},
            endpoint=endpoint,
            stdin=task.instruction.strip().encode(),
            timeout_sec=timeout_sec,
        )

    def configuration(self, endpoint: ModelEndpoint) -> dict[str, Any]:
        """What goes before every configuration file that a repository may hold."""
        model: dict[str, Any] = {"name": endpoint.model}
        compaction: dict[str, Any] = {"prune": False}
        if self.settings.compact_tokens is not None:
            limit = self.settings.compact_tokens
            model["limit"] = {"context": limit + _OUTPUT_TOKENS, "input": limit, "output": _OUTPUT_TOKENS}
            compaction["reserved"] = 0
        options = {
            "baseURL": f"{endpoint.base_url}/v1",
            "apiKey": endpoint.secret,
            "timeout": REQUEST_SEC * 1000,
        }
        provider = {"npm": "@ai-sdk/openai-compatible", "name": _PROVIDER, "options": options}
        return {
            "provider": {_PROVIDER: {**provider, "models": {endpoint.model: model}}},
            "enabled_providers": [_PROVIDER],
            "small_model": f"{_PROVIDER}/{endpoint.model}",
            "permission": self._permissions(),
            # One turn more than allowed: the program takes tools away in its last one and puts words into the
            # policy's mouth, which the proxy refuses. That refused request is the end, after ``max_turns`` real ones.
            "agent": {"build": {"steps": self.settings.max_turns + 1}},
            "compaction": compaction,
            "snapshot": False,
            "lsp": False,
            "formatter": False,
            "autoupdate": False,
            "share": "disabled",
        }

    def _permissions(self) -> dict[str, str]:
        """Nothing is asked; what is denied is not offered to the policy either. Later entries win."""
        if self.settings.tools is None:
            return {"*": "allow", **dict.fromkeys(NETWORK_TOOLS, "deny")}
        return {"*": "deny", **dict.fromkeys((*_NO_TOOLS, *self.settings.tools), "allow")}


def outcome(ended: Ended, *, max_turns: int) -> AgentOutcome:
    """What its events say. Raises ``AgentFailure`` when no finished reply comes after the last error.

    Exit code 1 says no more than that there was an error at some time: it may have gone on since.
    """
    events = list(_events(ended.stdout))
    decisive = [event for event in events if event["type"] in ("step_finish", "error")]
    steps = [event for event in decisive if event["type"] == "step_finish"]
    metrics = {"turns": float(len(steps)), "total_sec": _seconds(events)}
    if decisive and (failed := decisive[-1])["type"] == "error":
        if len(steps) >= max_turns:
            return AgentOutcome(Termination.MAX_TURNS, ended.logs, metrics)
        raise ended.failure(Termination.AGENT_CRASHED, f"the agent reports {json.dumps(failed.get('error'))[-300:]}")
    if ended.exit_code not in (0, 1) or not steps or _part(steps[-1]).get("reason") in _GOES_ON:
        raise ended.crashed()
    return AgentOutcome(Termination.COMPLETED, ended.logs, metrics)


def _part(event: dict[str, Any]) -> dict[str, Any]:
    part = event.get("part")
    return part if isinstance(part, dict) else {}


def _events(stdout: bytes) -> Iterator[dict[str, Any]]:
    for line in stdout.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("type"), str):
            yield event


def _seconds(events: list[dict[str, Any]]) -> float:
    stamps = [event["timestamp"] for event in events if isinstance(event.get("timestamp"), int | float)]
    return (max(stamps) - min(stamps)) / 1000 if stamps else 0.0


def _native(modules: Path) -> Path:
    """The program for this processor; npm installs a second one for those without AVX2."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    names = [f"opencode-linux-{machine}"]
    if machine == "x64" and " avx2 " not in Path("/proc/cpuinfo").read_text().replace("\n", " "):
        names = [f"{names[0]}-baseline"]
    for name in names:
        if (program := modules / name / "bin" / "opencode").exists():
            return program
    raise MachineError(f"agent opencode: no program for {platform.machine()}", fix="choose another scaffold")
