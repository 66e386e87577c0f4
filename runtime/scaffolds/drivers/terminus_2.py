"""Drives Terminus 2 (of Harbor 0.24) through one task. Runs in the box.

Harbor runs it beside the box and reaches in for every key; here both are inside, so the trial needs no process on the
host and ends with its box. Its prompts, parser and terminal are Harbor's own. See ``report``.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import traceback
from pathlib import Path
from typing import Any

import litellm
from harbor.agents.terminus_2 import Terminus2
from harbor.environments.base import BaseEnvironment, ExecResult
from harbor.environments.capabilities import EnvironmentCapabilities
from harbor.models.agent.context import AgentContext
from harbor.models.task.config import EnvironmentConfig
from harbor.models.trial.paths import TrialPaths

from . import report

LOGS = Path("/logs/agent")
SUMMARY_TOKENS = 8000
"""Terminus summarises when fewer than these are free."""


class TooSilent(Exception):
    """The limit of consecutive replies that neither type nor finish is reached."""


class Inside(BaseEnvironment):  # type: ignore[misc]  # Harbor's classes are not there for the type checker
    """The box, seen from inside."""

    @staticmethod
    def type() -> str:
        return "liverl-inside"

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        return EnvironmentCapabilities(disable_internet=True)

    def _validate_definition(self) -> None:
        """There is nothing to build."""

    async def start(self, force_build: bool) -> None:
        """It is running."""

    async def stop(self, delete: bool) -> None:
        """The runtime stops it."""

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout_sec):
                out, err = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        code = process.returncode if process.returncode is not None else -1
        return ExecResult(stdout=out.decode(errors="replace"), stderr=err.decode(errors="replace"), return_code=code)

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        await self._copy(source_path, target_path)

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        await self._copy(f"{source_dir}/.", target_dir)

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        await self._copy(source_path, target_path)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        await self._copy(f"{source_dir}/.", target_dir)

    async def _copy(self, source: Path | str, target: Path | str) -> None:
        await asyncio.to_thread(subprocess.run, ["cp", "-a", str(source), str(target)], check=True)


class Watched(Terminus2):  # type: ignore[misc]
    """Terminus 2 that says what it types, counts replies which neither type nor finish, and remembers whether its end
    was confirmed."""

    max_silent = 1
    silent = 0
    confirmed = False

    async def _handle_llm_interaction(self, *args: Any, **kwargs: Any) -> Any:
        interaction = await super()._handle_llm_interaction(*args, **kwargs)
        commands, finished, feedback, *_ = interaction
        wrong = "ERROR:" in feedback
        report.turn(self.turns, [one.keystrokes for one in commands], wrong=feedback if wrong else "")
        self.confirmed = finished and not wrong and self._pending_completion
        self.silent = 0 if (commands or finished) and not wrong else self.silent + 1
        if self.silent >= self.max_silent:
            raise TooSilent
        return interaction

    @property
    def turns(self) -> int:
        return int(self._n_episodes)


def main() -> None:
    order = report.read_order()
    agent = _agent(order)
    agent.max_silent = order.max_replies_without_tool
    try:
        termination, detail = asyncio.run(_drive(order, agent))
    except Exception as error:  # whatever it was, the runtime must hear of it in the closing line
        traceback.print_exc()
        termination, detail = report.termination_of(error), report.describe(error)
    report.end(termination, turns=agent.turns, detail=detail, summaries=float(agent._summarization_count))


async def _drive(order: report.Order, agent: Watched) -> tuple[str, str]:
    inside = Inside(
        environment_dir=Path.cwd(),
        environment_name="box",
        session_id="box",
        trial_paths=TrialPaths(Path("/tmp/terminus")),
        task_env_config=EnvironmentConfig(),
    )
    await agent.setup(inside)
    try:
        await agent.run(order.instruction, inside, AgentContext())
    except TooSilent:
        return report.NO_TOOL, ""
    finally:
        await inside.exec("tmux kill-server")
    if agent.confirmed:
        return report.COMPLETED, ""
    if agent.turns >= order.max_turns:
        return report.MAX_TURNS, ""
    return report.COMPLETED, "its shell ended"


def _agent(order: report.Order) -> Watched:
    litellm.api_key = order.secret  # among the arguments it would be in every trajectory that Terminus writes
    compact_tokens = order.options["compact_tokens"]
    limit = None if compact_tokens is None else {"max_input_tokens": compact_tokens + SUMMARY_TOKENS}
    return Watched(
        logs_dir=LOGS,
        model_name=f"openai/{order.model}",
        api_base=order.base_url,
        parser_name=order.options["parser"],
        max_turns=order.max_turns,
        enable_summarize=compact_tokens is not None,
        proactive_summarization_threshold=SUMMARY_TOKENS,
        model_info=limit,
        record_terminal_session=False,
        suppress_max_turns_warning=True,
        llm_kwargs={"timeout": order.timeout_sec, "max_retries": 0},
    )
