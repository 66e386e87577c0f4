"""Where model families meet the codec: how a family writes tool calls, and what ends its replies.

A parser knows one wire format of tool calls and nothing of tokens or HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from runtime.proxy.chat import ParsedReply

ToolSchemas = Mapping[str, Mapping[str, Any]]
"""Function name -> JSON schema of its parameters."""


class ToolParser(Protocol):
    """Reads the text of one reply. Never raises: what cannot be read as a tool call stays content."""

    def __call__(self, text: str, tools: ToolSchemas | None, *, complete: bool) -> ParsedReply:
        """``tools`` is None when the request allows no tool call; ``complete`` is false for a cut reply."""


def as_it_is(message: dict[str, Any]) -> dict[str, Any]:
    return message


@dataclass(frozen=True, slots=True)
class Format:
    """How one family of models writes.

    ``stops`` are control tokens that end a reply beside those that the model's folder names; ``inner`` close a part of
    a reply and therefore never end one. ``prepare`` changes a message from the common form of templates to what this
    family's template reads.
    """

    parser: ToolParser
    stops: tuple[str, ...] = ()
    inner: frozenset[str] = frozenset()
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = as_it_is


def new_call_id() -> str:
    return "call_" + secrets.token_hex(8)


def split_reasoning(text: str) -> tuple[str, str]:
    """Reasoning that ``</think>`` closes, and the rest. An opening ``<think>`` may stand in the prompt instead."""
    head, mark, tail = text.partition("</think>")
    if not mark:
        return "", text
    return head.lstrip("\n").removeprefix("<think>").strip("\n"), tail.lstrip("\n")


def typed_argument(text: str, schema: Mapping[str, Any] | None) -> object:
    """An argument that a format without JSON syntax gives as text, by its declared type.

    Text where the schema says string alone; else the JSON value that it spells, and text where it spells none (as
    vLLM's and SGLang's parsers do).
    """
    if schema is not None and schema.get("type") in ("string", ["string"]):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def properties_of(tools: ToolSchemas, name: str) -> Mapping[str, Any]:
    """Parameter name -> its schema; nothing for an unknown tool."""
    properties = tools.get(name, {}).get("properties")
    return properties if isinstance(properties, Mapping) else {}
