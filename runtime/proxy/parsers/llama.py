"""Tool calls of Llama 3: the whole reply is ``{"name": NAME, "parameters": {...}}``, several are separated by ``;``.

``<|python_tag|>`` may stand before them, and so may text, if they name tools of the request. Text that is no such
object is an answer, also where it is another JSON object.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import ToolSchemas, new_call_id
from runtime.proxy.parsers.values import call_arguments, json_at

_TAG = re.compile(r"^[ \t]*<\|python_tag\|>", re.MULTILINE)
_BEGIN = re.compile(r"^\{(?=\s*\"(?:name|type|function)\"\s*:)", re.MULTILINE)
_MAX_BEGINNINGS = 16
"""So many objects of an answer are looked at as the beginning of calls."""
_BETWEEN = re.compile(r"\s*;?\s*")


def parse_llama(text: str, tools: ToolSchemas | None, *, complete: bool, thinking: bool = False) -> ParsedReply:
    """A reply that begins like a call and is none is ``ill_formed``."""
    if tools is None:
        return ParsedReply(text)
    whole = text.rstrip()
    for begin in islice(_BEGIN.finditer(whole), _MAX_BEGINNINGS):
        body, before = whole[begin.start() :], text[: begin.start()].strip()
        calls = _read_calls(body, tools, tagged=False)
        if calls and (not before or all(call.name in tools for call in calls)):
            return ParsedReply(before, calls)
        if not calls and not before and _meant(body, tools):
            return ParsedReply(text, status="ill_formed", unread=(text,))
    if (tag := _TAG.search(text)) is not None:
        if calls := _read_calls(whole[tag.end() :].lstrip(), tools, tagged=True):
            return ParsedReply(text[: tag.start()].strip(), calls)
        return ParsedReply(text, status="ill_formed", unread=(text[tag.start() :],))
    return ParsedReply(text)


def _read_calls(body: str, tools: ToolSchemas, *, tagged: bool) -> tuple[ToolCall, ...]:
    """The calls that ``body`` consists of; nothing when it holds anything else."""
    calls: list[ToolCall] = []
    position = 0
    while position < len(body):
        # The JSON says where an object ends: ``;`` may also stand inside of a string.
        found = json_at(body, position)
        call = None if found is None else _read_call(found[0], tools, tagged=tagged)
        if found is None or call is None:
            return ()
        calls.append(call)
        between = _BETWEEN.match(body, found[1])
        position = found[1] if between is None else between.end()
    return tuple(calls)


def _read_call(value: Any, tools: ToolSchemas, *, tagged: bool) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    if not (tagged or value["name"] in tools or "parameters" in value or "arguments" in value):
        return None  # an object that has a name, as package.json has
    arguments = call_arguments(value.get("parameters", value.get("arguments")))
    return None if arguments is None else ToolCall(new_call_id(), value["name"], arguments)


def _meant(body: str, tools: ToolSchemas) -> bool:
    """Whether text that is no call was meant for one: it is broken JSON, or names a tool or gives parameters."""
    found = json_at(body, 0)
    if found is None or body[found[1] :].strip():
        return True
    value = found[0]
    return any(key in value for key in ("parameters", "arguments", "function")) or value.get("name") in tools
