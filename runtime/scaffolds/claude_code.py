"""Claude Code, headless, against the proxy's Anthropic endpoint.

The npm package's native program is shown read-only in the sandbox with its libraries (``carried.py``) and needs of an
image nothing but a shell for its redirections. Wire shapes and variables
were observed on version 2.1.197. Knows the program's flags and its closing line, not tokens or rewards.
"""

from __future__ import annotations

from pathlib import Path

from runtime.config import ClaudeCodeScaffold as Settings
from runtime.errors import Termination
from runtime.sandboxes.base import Mount, Sandbox
from runtime.scaffolds import carried
from runtime.scaffolds.base import AgentOutcome, ModelEndpoint
from runtime.scaffolds.command import LOGS, Ended, closing_line, run_agent
from runtime.task import Task

PROGRAM = "/opt/agent/claude"
NETWORK_TOOLS = ("WebFetch", "WebSearch")
RETRIES = 4
"""How often a failed request is repeated, about 8 s in all: an outage must show before the trial's time is up."""
_LEAST_WINDOW, _FOR_THE_SUMMARY, _MARGIN = 100_000, 20_000, 13_000
_MODEL_SLOTS = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_FABLE_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)
_ENVIRONMENT = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",  # its hash differs per session and would split the prefix cache
    "CLAUDE_CODE_MAX_RETRIES": str(RETRIES),
    "DISABLE_AUTOUPDATER": "1",
    "MAX_THINKING_TOKENS": "0",
    "IS_SANDBOX": "1",  # permission prompts may be off although we are root
}


class ClaudeCode:
    """Implements ``runtime.scaffolds.base.Scaffold``. ``folder``: where npm installed the package."""

    needs = Settings.needs

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        (program,) = (folder / "node_modules" / "@anthropic-ai").glob("claude-code-linux-*/claude")
        self._carried = carried.carried("claude-code", [program, *carried.bash()], cache=folder.parent)

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return (Mount(self._carried / "bin" / "claude", PROGRAM), *carried.mounts(self._carried))

    async def run(self, task: Task, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        """Raises ``AgentFailure`` when the agent crashed, ran out of time or had no model."""
        return await run_agent(
            sandbox,
            self._argv() if task.work.image is None else ["sh", "-c", carried.WITH_BASH, *self._argv()],
            outcome=outcome,
            env=self._environment(endpoint),
            endpoint=endpoint,
            stdin=task.instruction.strip().encode(),
            timeout_sec=timeout_sec,
        )

    def _argv(self) -> list[str]:
        argv = [PROGRAM, "--print", "--verbose", "--output-format", "stream-json"]
        argv += ["--permission-mode", "bypassPermissions", "--max-turns", str(self.settings.max_turns)]
        if self.settings.tools is not None:
            return [*argv, "--tools", ",".join(self.settings.tools)]
        return [*argv, "--disallowed-tools", ",".join(NETWORK_TOOLS)]

    def _environment(self, endpoint: ModelEndpoint) -> dict[str, str]:
        variables = {
            "ANTHROPIC_BASE_URL": endpoint.base_url,
            "ANTHROPIC_API_KEY": endpoint.secret,
            "CLAUDE_CONFIG_DIR": f"{LOGS}/sessions",
            **dict.fromkeys(_MODEL_SLOTS, endpoint.model),
            **_ENVIRONMENT,
        }
        if self.settings.compact_tokens is not None:
            variables.update(compaction(self.settings.compact_tokens))
        return variables


def compaction(tokens: int) -> dict[str, str]:
    """Variables that make it summarise at a context of ``tokens``.

    Of its window, at least 100,000 tokens, it sets 20,000 aside for the summary; then it takes a share of the rest that
    leaves at least 13,000 more.
    """
    window = max(_LEAST_WINDOW, tokens + _FOR_THE_SUMMARY + _MARGIN)
    return {
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(window),
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(window),  # else 200,000 for a model of which it has not heard
        "CLAUDE_AUTOCOMPACT_PCT_OVERRIDE": f"{100 * tokens / (window - _FOR_THE_SUMMARY):.6f}",
    }


def outcome(ended: Ended) -> AgentOutcome:
    """What the closing line says; that replies were cut again and again is the policy's doing. Raises ``AgentFailure``:
    without such a line it crashed; when its last error is the API's, there was no model."""
    report = closing_line(ended.stdout)
    if report is None:
        raise ended.crashed()
    subtype, said = report.get("subtype"), str(report.get("result") or "")
    metrics = {"turns": float(report.get("num_turns") or 0), "total_sec": float(report.get("duration_ms") or 0) / 1000}
    if subtype == "error_max_turns":
        return AgentOutcome(Termination.MAX_TURNS, ended.logs, metrics)
    if subtype == "success" and not report.get("is_error"):
        return AgentOutcome(Termination.COMPLETED, ended.logs, metrics)
    if "output token maximum" in said:  # its words for replies that were cut, several in a row
        return AgentOutcome(Termination.OVERLONG, ended.logs, metrics)
    if "API Error" in said and "400" not in said:
        raise ended.failure(Termination.MODEL_UNAVAILABLE, said[-300:])
    raise ended.failure(Termination.AGENT_CRASHED, f"the agent reports {subtype}: {said[-300:]}")
