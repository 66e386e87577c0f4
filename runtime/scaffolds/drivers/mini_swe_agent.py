"""Runs mini-swe-agent on one task inside the sandbox through its Python interface; the last line says how it ended.

The agent is the published one with its own prompts and its own ``mini.yaml``; the interactive shell around it, which
would ask people, is left out. Settings come as JSON in ``LIVERL_AGENT``, the instruction on standard input.

    python3 -I mini_swe_agent.py
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

SITE = "/opt/agent/site"


def main() -> None:
    settings = json.loads(os.environ.pop("LIVERL_AGENT"))
    # On the path of this process alone: what the agent runs must not see the agent's packages.
    sys.path.insert(0, settings["site"])
    began = time.monotonic()
    agent = build(settings)
    report: dict[str, Any] = {"type": "result"}
    try:
        report["exit_status"] = agent.run(sys.stdin.read()).get("exit_status")
    except Exception as error:  # the agent has said why in its log; its name decides what the end is
        report["exit_status"], report["error"] = type(error).__name__, str(error)[-2000:]
    report.update(turns=agent.n_calls, total_sec=time.monotonic() - began)
    sys.stdout.write("\n" + json.dumps(report) + "\n")


def build(settings: dict[str, Any]) -> Any:
    """The agent: its own configuration, with our limits and endpoint."""
    from minisweagent.agents.default import DefaultAgent
    from minisweagent.config import get_config_from_spec
    from minisweagent.environments.local import LocalEnvironment
    from minisweagent.models.litellm_model import LitellmModel

    config = get_config_from_spec("mini.yaml")
    model = {**config["model"], "model_name": f"openai/{settings['model']}", "cost_tracking": "ignore_errors"}
    model["model_kwargs"] = {**model.get("model_kwargs", {}), "timeout": settings["request_sec"]}
    environment = {**config["environment"], "timeout": settings["command_timeout_sec"]}
    agent = {
        **config["agent"],
        "step_limit": settings["max_turns"],
        "cost_limit": 0.0,
        "max_consecutive_format_errors": settings["max_replies_without_tool"],
        "output_path": settings["trajectory"],
    }
    return DefaultAgent(LitellmModel(**model), LocalEnvironment(**environment), **agent)


if __name__ == "__main__":
    main()
