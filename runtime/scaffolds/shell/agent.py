"""The built-in agent: a program that drives the model through tool calls in a sandbox until it submits or runs out.

Started as ``python3 agent.py`` with its settings as one line of JSON on standard input (see ``Agent``); prints one line
of JSON with how it ended; with ``look`` among them, only what an agent would be shown first.
Exit code 75: the model could not be reached, which is no fault of the policy.
Standard library only. It knows no tasks, rewards or tokens.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

MOUNT = os.environ.get("LIVERL_MOUNT", "/opt/liverl")
if __package__:
    from .wire import Client, Refused, Unavailable
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(1, MOUNT)
    from wire import Client, Refused, Unavailable  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Tools(Protocol):
        """One agent's tools. Every call returns the text that the agent reads."""

        @property
        def edits(self) -> int:
            """Edits made so far."""

        @property
        def exhausted(self) -> bool:
            """Whether a budget is spent, so that going on makes no sense."""

        def opening(self) -> str:
            """What the agent is shown with the instruction; may be empty."""

        def call(self, name: str, arguments: str) -> str:
            """``arguments``: JSON, as the model wrote it."""


EX_UNAVAILABLE = 75  # EX_TEMPFAIL of sysexits.h
MAX_NO_TOOL = 3
REMINDER = "Call a tool."
ERROR = "error: "
"""How a tool says that it has done nothing."""
OVERFLOW_CODES = ("context_length_exceeded", "string_above_max_length")

COMPLETED, MAX_TURNS, NO_TOOL, OVERLONG = "agent_completed", "max_turns_reached", "no_tool_calls", "overlong"


def tool_set(folder: str, module: str) -> Any:
    """A tool set (``SCHEMAS`` and ``open_tools``) from the folder of programs that the sandbox shows as ``folder``."""
    if not __package__:
        sys.path.insert(0, os.path.join(MOUNT, folder))
    return importlib.import_module(module)


class Agent:
    """One conversation. ``settings``: base_url, secret, model, instruction, toolset (folder, module), max_turns,
    opening (None: to be looked for here), and what the tool set asks for (``ShellScaffold.settings_for``)."""

    def __init__(self, settings: dict[str, Any], root: str) -> None:
        self._settings = settings
        self._client = Client(settings["base_url"], settings["secret"])
        tools = tool_set(*settings["toolset"])
        self._tools: Tools = tools.open_tools(root, settings)
        self._schemas: list[dict[str, Any]] = tools.SCHEMAS
        opening = settings.get("opening")
        if opening is None:
            opening = self._tools.opening()
        first = settings["instruction"] + (f"\n\n{opening}" if opening else "")
        self._messages: list[dict[str, Any]] = [{"role": "user", "content": first}]
        self.turns = 0
        self.calls: list[str] = []
        self.tool_sec = 0.0

    @property
    def edits(self) -> int:
        return self._tools.edits

    def run(self) -> str:
        """Converse to the end and return the termination reason. Raises ``Unavailable``."""
        silent, refused, again = 0, None, 0
        most = self._settings.get("max_refusals")
        while self.turns < self._settings["max_turns"]:
            body = {"model": self._settings["model"], "messages": self._messages, "tools": self._schemas}
            try:
                answer = self._client.complete(body)
            except Refused as error:
                if error.code in OVERFLOW_CODES:
                    return OVERLONG
                raise
            self.turns += 1
            message = answer["choices"][0]["message"]
            self._messages.append(message)
            calls = message.get("tool_calls") or []
            if not calls:
                silent += 1
                if silent >= MAX_NO_TOOL:
                    return NO_TOOL
                self._messages.append({"role": "user", "content": REMINDER})
                continue
            silent = 0
            for call in calls:
                name = call["function"]["name"]
                self.calls.append(name)
                if name == "submit":
                    return COMPLETED
                started = time.perf_counter()
                text = self._tools.call(name, call["function"]["arguments"])
                made = (name, call["function"]["arguments"]) if text.startswith(ERROR) else None
                again = again + 1 if made is not None and made == refused else 1
                refused = made
                self.tool_sec += time.perf_counter() - started
                self._messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
                if most is not None and refused is not None and again >= most:
                    return COMPLETED
            if self._tools.exhausted:
                return MAX_TURNS
        return MAX_TURNS


def _root() -> str:
    return os.environ.get("LIVERL_WORKDIR", "/app")


def main() -> int:
    settings = json.loads(sys.stdin.readline())
    if settings.get("look"):
        print(json.dumps(tool_set(*settings["toolset"]).open_tools(_root(), settings).opening()))
        return 0
    agent = Agent(settings, _root())
    started = time.perf_counter()
    error = ""
    try:
        termination, code = agent.run(), 0
    except Unavailable as failure:
        termination, code, error = "model_unavailable", EX_UNAVAILABLE, str(failure)
    print(
        json.dumps(
            {
                "termination": termination,
                "error": error,
                "turns": agent.turns,
                "edits": agent.edits,
                "tool_sec": round(agent.tool_sec, 6),
                "total_sec": round(time.perf_counter() - started, 6),
                "calls": agent.calls,
            }
        )
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
