"""Chat templates: the Jinja environment that transformers gives them, without importing transformers.

Mirrors ``transformers.utils.chat_template_utils`` 5.10 (same filters, globals, extensions, white-space rules). Knows
nothing of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.proxy.messages import Message


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}`` marks assistant text for training masks elsewhere; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own attribute

    def parse(self, parser: Any) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        body: list[jinja2.nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


_KEPT = {"clear_thinking": False, "preserve_thinking": True}
"""Switches of newer templates (GLM 4.7, Qwen 3.6, Gemma 4) that make them keep the reasoning of earlier turns, as the
stored tokens do."""


class ChatTemplate:
    """One compiled template with the special-token names of its tokenizer."""

    def __init__(self, source: str, *, names: Mapping[str, str]) -> None:
        """``names`` are template variables such as ``bos_token``. Raises ``jinja2.TemplateSyntaxError``."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        # A clock in the prompt would make the same conversation two different ones after midnight.
        loaded = datetime.now().astimezone()
        environment.globals["strftime_now"] = loaded.strftime
        self._template = environment.from_string(source)
        self._names = {**_KEPT, **names}

    def render(self, messages: list[dict[str, Any]], *, tools: list[Any] | None, generate: bool) -> str:
        """Raises ``jinja2.TemplateError`` when the template refuses the messages."""
        return self._template.render(
            **self._names, messages=messages, tools=tools or None, documents=None, add_generation_prompt=generate
        )


def template_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as templates expect them (the OpenAI form with arguments as objects)."""
    rendered: list[dict[str, Any]] = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning:
            entry["reasoning_content"] = message.reasoning
        if message.tool_calls:
            entry["tool_calls"] = [
                {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.parsed()}}
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            entry["tool_call_id"] = message.tool_call_id
        rendered.append(entry)
    return rendered
