"""The tools of the responses API as functions with one flat name each, and their calls as the items that agents expect.

Codex groups the tools of an MCP server in a namespace, and has tools whose calls are items of a type of their own
(free-form tools, its shell, its search for further tools). Tools that run at the provider are left out, so the policy
can never call them. Knows nothing of messages or streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from runtime.proxy.dialects.base import FREE_FORM, free_form_arguments, free_form_text, object_field, text_field
from runtime.proxy.messages import ToolCall

_SHELL = {
    "type": "object",
    "properties": {
        "command": {"type": "array", "items": {"type": "string"}},
        "working_directory": {"type": "string"},
        "timeout_ms": {"type": "integer"},
    },
    "required": ["command"],
}
_SEARCH = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
    "required": ["query"],
}
CALL_ITEMS = frozenset({"function_call", "custom_tool_call", "local_shell_call", "tool_search_call"})
"""Items that are calls of the policy."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of a request: ``type`` as sent; ``namespace`` is empty for a tool outside of any."""

    type: str
    name: str
    namespace: str
    description: str
    parameters: dict[str, Any]

    @property
    def flat_name(self) -> str:
        return flat_name(self.namespace, self.name)

    def function(self) -> dict[str, Any]:
        """The form that chat templates expect."""
        function = {"name": self.flat_name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


def flat_name(namespace: str, name: str) -> str:
    """Also the name of an echoed call, so it depends on nothing else."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


def read_tools(tools: Any, where: str = "tools", *, namespace: str = "") -> Iterator[Tool]:
    """Raises ``Refusal`` of kind ``INVALID`` naming the field."""
    for index, sent in enumerate(tools if isinstance(tools, list) else ()):
        here = f"{where}[{index}]"
        tool = object_field(sent, here)
        kind = tool.get("type")
        description = tool.get("description") or ""
        match kind:
            case "namespace":
                inner = text_field(tool.get("name"), f"{here}.name")
                yield from read_tools(tool.get("tools"), f"{here}.tools", namespace=flat_name(namespace, inner))
            case "function" | "custom":
                name = text_field(tool.get("name"), f"{here}.name")
                parameters = tool.get("parameters") or {} if kind == "function" else FREE_FORM
                yield Tool(kind, name, namespace, description, parameters)
            case "local_shell":
                yield Tool(kind, "local_shell", "", description or "Run a command.", _SHELL)
            case "tool_search" if tool.get("execution") != "server":
                description = description or "Find further tools, which can be called afterwards."
                yield Tool(kind, "tool_search", "", description, tool.get("parameters") or _SEARCH)


def found_tools(items: Iterable[Any]) -> tuple[Tool, ...]:
    """Tools that the agent has found for the policy in the course of the conversation."""
    return tuple(
        tool
        for item in items
        if isinstance(item, dict) and item.get("type") == "tool_search_output"
        for tool in read_tools(item.get("tools"), "input[].tools")
    )


def found_text(item: dict[str, Any]) -> str:
    """What the policy reads of such a search."""
    found = [tool.function()["function"] for tool in read_tools(item.get("tools"), "input[].tools")]
    return orjson.dumps(found).decode()


def read_call(item: dict[str, Any]) -> ToolCall:
    """An echoed call. Raises ``Refusal`` of kind ``INVALID``."""
    identity = item.get("call_id") or item.get("id") or ""
    name = item.get("name")
    match item.get("type"):
        case "custom_tool_call":
            arguments = free_form_arguments(item.get("input", ""))
        case "local_shell_call":
            action = object_field(item.get("action"), "input[].action")
            given = {key: action[key] for key in _SHELL["properties"] if action.get(key) is not None}
            name, arguments = "local_shell", orjson.dumps(given).decode()
        case "tool_search_call":
            name, arguments = "tool_search", orjson.dumps(item.get("arguments") or {}).decode()
        case _:
            sent = item.get("arguments")
            arguments = sent if isinstance(sent, str) else orjson.dumps(sent or {}).decode()
    namespace = item.get("namespace")
    full = flat_name(namespace if isinstance(namespace, str) else "", text_field(name, "input[].name"))
    return ToolCall(text_field(identity, "input[].call_id"), full, arguments)


def call_item(call: ToolCall, tools: dict[str, Tool], item: dict[str, Any]) -> dict[str, Any]:
    """``item`` (its id and status) as the item of a call; ``tools`` are known by their flat names.

    What does not fit the tool's own form, as the call of an unknown tool, is a function call, for the agent to refuse.
    """
    tool = tools.get(call.name)
    item = {**item, "call_id": call.id}
    arguments = call.parsed()
    if tool is not None and isinstance(arguments, dict):
        if tool.type == "custom" and (free := free_form_text(call)) is not None:
            return {"type": "custom_tool_call", **item, **_named(tool), "input": free}
        if tool.type == "local_shell" and _is_command(arguments.get("command")):
            given = {key: arguments[key] for key in _SHELL["properties"] if key in arguments}
            return {"type": "local_shell_call", **item, "action": {"type": "exec", "env": {}, **given}}
        if tool.type == "tool_search":
            return {"type": "tool_search_call", **item, "execution": "client", "arguments": arguments}
    named = _named(tool) if tool is not None else {"name": call.name}
    return {"type": "function_call", **item, **named, "arguments": call.arguments}


def _named(tool: Tool) -> dict[str, str]:
    return {"name": tool.name, **({"namespace": tool.namespace} if tool.namespace else {})}


def _is_command(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
