"""Text without a call in it that was meant for one all the same: in the form of another family, or as bare JSON.

Models fall back on what they have read most. As plain text it would be the agent's final answer. Only what names a tool
of the request counts: everything else is an answer. Knows no wire API.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from runtime.proxy.parsers.base import ToolSchemas
from runtime.proxy.parsers.glm import parse_glm
from runtime.proxy.parsers.hermes import parse_hermes
from runtime.proxy.parsers.qwen3_coder import parse_qwen3_coder
from runtime.proxy.parsers.values import json_at

_MARKED = ((parse_hermes, "<tool_call>"), (parse_qwen3_coder, "<function="), (parse_glm, "<arg_key>"))
_BARE = re.compile(r"^[ \t]*(?:```\w*\s*)?(?=[\[{])", re.MULTILINE)
_REST = re.compile(r"\s*(?:```)?\s*\Z")
_PYTHON = re.compile(r"\s*\[\s*([\w.]+)\(.*\)\s*\]\s*", re.DOTALL)
_MAX_BEGINNINGS = 16
"""So many lines of an answer are looked at as the beginning of bare JSON."""


def meant_for_a_call(text: str, tools: ToolSchemas) -> str | None:
    """What of ``text`` was meant for a call of one of ``tools``; None where it is an answer."""
    for parse, sign in _MARKED:
        if sign in text and any(call.name in tools for call in parse(text, tools, complete=True).tool_calls):
            return text
    for begin in islice(_BARE.finditer(text), _MAX_BEGINNINGS):
        found = json_at(text, begin.end())
        if found is not None and _REST.match(text, found[1]) and _calls(found[0], tools):
            return text[begin.start() :]
    python = _PYTHON.fullmatch(text)
    return text if python is not None and python[1] in tools else None


def _calls(value: Any, tools: ToolSchemas) -> bool:
    """Whether a JSON value is a call, or a list of nothing else."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, dict) and _calls(one, tools) for one in value)
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("function"), dict):  # as the wire APIs write it
        value = value["function"]
    name = value.get("name", value.get("function", value.get("tool")))
    given = next((value[key] for key in ("arguments", "parameters", "input") if key in value), None)
    return isinstance(name, str) and name in tools and isinstance(given, dict | str)
