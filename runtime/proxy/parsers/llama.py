"""Tool calls of Llama 3: the whole reply is ``{"name": NAME, "parameters": {...}}``, several are separated by ``;``.

``<|python_tag|>`` may stand before them. Text that is no such object is an answer.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import ToolSchemas, new_call_id

_DECODER = json.JSONDecoder()
_TAG = "<|python_tag|>"


def parse_llama(text: str, tools: ToolSchemas | None, *, complete: bool) -> ParsedReply:
    """A reply that begins like a call and is none is ``ill_formed``."""
    if tools is None:
        return ParsedReply(text)
    body = text.strip()
    tagged = body.startswith(_TAG)
    body = body.removeprefix(_TAG).strip()
    if not body.startswith("{"):
        return ParsedReply(text, status="ill_formed" if tagged else "ok")
    calls: list[ToolCall] = []
    position = 0
    while position < len(body):
        try:
            # A decoder that says where an object ends: ``;`` may also stand inside of a string.
            value, position = _DECODER.raw_decode(body, position)
        except (json.JSONDecodeError, RecursionError):
            return ParsedReply(text, status="ill_formed")
        call = _read_call(value)
        if call is None:
            # An object without a name is an answer in JSON, unless the model marked it as a call.
            return ParsedReply(text, status="ill_formed" if tagged or calls else "ok")
        calls.append(call)
        rest = body[position:].lstrip()
        if rest and not rest.startswith(";"):
            return ParsedReply(text, status="ill_formed")
        position = len(body) - len(rest[1:].lstrip()) if rest else len(body)
    return ParsedReply("", tuple(calls))


def _read_call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("parameters", value.get("arguments", {}))
    if isinstance(arguments, str):
        return ToolCall(new_call_id(), value["name"], arguments)
    try:
        return ToolCall(new_call_id(), value["name"], orjson.dumps(arguments).decode())
    except TypeError:  # json reads integers of any size, orjson writes 64 bits
        return ToolCall(new_call_id(), value["name"], json.dumps(arguments))
