"""The built-in agent: a program that drives the model through tool calls in a sandbox until it submits or runs out.

Started as ``python3 agent.py`` with its settings as JSON in ``LIVERL_AGENT`` (see ``Agent``); prints one line of JSON
with how it ended. Exit code 75: the model could not be reached, which is no fault of the policy.
Standard library only. It knows no tasks, rewards or tokens.
"""

from __future__ import annotations

import json
import os
import sys
import time

if __package__:
    from . import repairs
    from .debugger import Debugger
    from .wire import Client, Refused, Unavailable
    from .workspace import FolderWorkspace
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(1, os.environ.get("LIVERL_MOUNT", "/opt/liverl"))
    import repairs  # type: ignore[import-not-found,no-redef]
    from debugger import Debugger  # type: ignore[import-not-found,no-redef]
    from wire import Client, Refused, Unavailable  # type: ignore[import-not-found,no-redef]
    from workspace import FolderWorkspace  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EX_UNAVAILABLE = 75  # EX_TEMPFAIL of sysexits.h
MAX_NO_TOOL = 3
REMINDER = "Call a tool."
OVERFLOW_CODES = ("context_length_exceeded", "string_above_max_length")

COMPLETED, MAX_TURNS, NO_TOOL, OVERLONG = "agent_completed", "max_turns_reached", "no_tool_calls", "overlong"


def repair_schemas() -> list[dict[str, Any]]:
    """Tools without arguments: a decision is one word."""
    texts = {"run": "Run the tests.", "next": "Go to the next line.", "submit": "Finish."}
    for name, repair in repairs.REPAIRS.items():
        texts[name] = repair.__doc__ or name
    parameters: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    return [
        {"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}
        for name, text in texts.items()
    ]


def first_request(instruction: str, tools: str) -> tuple[str, list[dict[str, Any]]]:
    """What the first request holds: the user's message and the schemas of the tool set ``tools``."""
    if tools == "repair":
        return instruction, repair_schemas()
    return instruction, _free_tools().SCHEMAS


def _free_tools() -> Any:
    """Imported by those who use it: it costs milliseconds in every sandbox."""
    if __package__:
        from . import free_tools
    else:
        import free_tools  # type: ignore[import-not-found,no-redef]
    return free_tools


class Agent:
    """One conversation. ``settings``: base_url, secret, model, instruction, tools, max_turns, max_edits, runner, ids,
    sources, python_path."""

    def __init__(self, settings: dict[str, Any], root: str) -> None:
        self._settings = settings
        self._client = Client(settings["base_url"], settings["secret"])
        self._debugger: Debugger | None = None
        self._free: Any = None
        if settings["tools"] == "repair":
            workspace = FolderWorkspace(
                root,
                runner=settings["runner"],
                ids=settings["ids"],
                sources=settings["sources"],
                python_path=settings["python_path"],
            )
            self._debugger = Debugger(workspace, max_edits=settings["max_edits"])
        else:
            self._free = _free_tools().FreeTools(root)
        instruction, self._tools = first_request(settings["instruction"], settings["tools"])
        self._messages: list[dict[str, Any]] = [{"role": "user", "content": instruction}]
        self.turns = 0
        self.calls: list[str] = []
        self.tool_sec = 0.0

    @property
    def edits(self) -> int:
        return (
            self._debugger.edits if self._debugger else sum(name in ("edit_file", "write_file") for name in self.calls)
        )

    def run(self) -> str:
        """Converse to the end and return the termination reason. Raises ``Unavailable``."""
        silent = 0
        while self.turns < self._settings["max_turns"]:
            body = {"model": self._settings["model"], "messages": self._messages, "tools": self._tools}
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
                text = self._call(name, call["function"]["arguments"])
                self.tool_sec += time.perf_counter() - started
                self._messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
            if self._debugger is not None and self._debugger.exhausted and not self._debugger.solved:
                return MAX_TURNS
        return MAX_TURNS

    def _call(self, name: str, arguments: str) -> str:
        if self._debugger is not None:
            return self._debugger.call(name) if name in ("run", "next", *repairs.REPAIRS) else f"no tool {name}"
        if name not in [tool["function"]["name"] for tool in self._tools]:
            return f"error: no tool {name}"
        try:
            parsed = json.loads(arguments or "{}")
        except ValueError as error:
            return f"error: the arguments are not JSON: {error}"
        return str(self._free.call(name, parsed)) if isinstance(parsed, dict) else "error: the arguments are no object"


def main() -> int:
    settings = json.loads(os.environ.pop("LIVERL_AGENT"))
    agent = Agent(settings, os.environ.get("LIVERL_WORKDIR", "/app"))
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
