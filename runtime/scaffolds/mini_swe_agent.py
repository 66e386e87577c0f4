"""mini-swe-agent against the proxy's OpenAI endpoint.

Its packages and a small driver of ours (``drivers/mini_swe_agent.py``) are shown read-only in the sandbox; the
sandbox's Python must be of the version that they were installed with, which is LiveRL's own. Knows the driver's
settings and closing line, not tokens or rewards. Behaviour was observed on version 2.4.6.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.config import MiniSweAgentScaffold as Settings
from runtime.errors import Termination
from runtime.sandboxes import bwrap
from runtime.sandboxes.base import Mount, Sandbox
from runtime.scaffolds import drivers
from runtime.scaffolds.base import AgentOutcome, ModelEndpoint
from runtime.scaffolds.command import LOGS, Ended, closing_line, run_agent
from runtime.task import Task

DRIVER = "/opt/agent/driver.py"
SITE = "/opt/agent/site"
ATTEMPTS = 2
"""Of a request that fails, 4 s apart, each repeated twice more by the client library."""
REQUEST_SEC = 3600
_HOME = "/tmp/mini-swe-agent"
_ENDS = {
    "Submitted": Termination.COMPLETED,
    "LimitsExceeded": Termination.MAX_TURNS,
    "RepeatedFormatError": Termination.NO_TOOL,
}
_ENVIRONMENT = {
    "MSWEA_GLOBAL_CONFIG_DIR": _HOME,
    "MSWEA_CONFIGURED": "true",
    "MSWEA_SILENT_STARTUP": "1",
    "MSWEA_COST_TRACKING": "ignore_errors",
    "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": str(ATTEMPTS),
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # the price list is fetched otherwise
    "LITELLM_LOG": "ERROR",
}


class MiniSweAgent:
    """Implements ``runtime.scaffolds.base.Scaffold``. ``folder``: where pip installed the packages."""

    needs = Settings.needs

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self._folder = folder

    @property
    def mounts(self) -> tuple[Mount, ...]:
        driver = Path(drivers.__file__).parent / "mini_swe_agent.py"
        return (Mount(self._folder, SITE), Mount(driver, DRIVER))

    async def run(self, task: Task, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        """Raises ``AgentFailure`` when the agent crashed, ran out of time or had no model."""
        return await run_agent(
            sandbox,
            [bwrap.PYTHON if task.work.image is not None else "python3", "-I", "-B", DRIVER],
            outcome=outcome,
            env={
                **_ENVIRONMENT,
                "LIVERL_AGENT": json.dumps(self.driver_settings(endpoint)),
                "OPENAI_BASE_URL": f"{endpoint.base_url}/v1",
                "OPENAI_API_KEY": endpoint.secret,
            },
            endpoint=endpoint,
            stdin=task.instruction.strip().encode(),
            timeout_sec=timeout_sec,
        )

    def driver_settings(self, endpoint: ModelEndpoint) -> dict[str, Any]:
        """What the driver reads from ``LIVERL_AGENT``."""
        return {
            "site": SITE,
            "model": endpoint.model,
            "max_turns": self.settings.max_turns,
            "max_replies_without_tool": self.settings.max_replies_without_tool,
            "command_timeout_sec": self.settings.command_timeout_sec,
            "request_sec": REQUEST_SEC,
            "trajectory": f"{LOGS}/trajectory.json",
        }


def outcome(ended: Ended) -> AgentOutcome:
    """What the closing line says. Raises ``AgentFailure``: without such a line, or with any other exit status, it
    crashed."""
    report = closing_line(ended.stdout)
    if report is None:
        raise ended.crashed()
    termination = _ENDS.get(str(report.get("exit_status")))
    if termination is None:
        what = f"the agent reports {report.get('exit_status')}: {str(report.get('error'))[-300:]}"
        raise ended.failure(Termination.AGENT_CRASHED, what)
    metrics = {"turns": float(report.get("turns") or 0), "total_sec": float(report.get("total_sec") or 0)}
    return AgentOutcome(termination, ended.logs, metrics)
