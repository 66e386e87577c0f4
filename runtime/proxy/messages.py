"""The one internal message form between the wire dialects and the chat codec.

Knows neither JSON of any wire API nor tokens. Equality of messages for matching a history lives here too, because it is
a property of the form: tool-call ids and the serialisation of arguments never count, white space around generated text
never counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from runtime.proxy.characters import whole_characters
from runtime.proxy.volatile import ignoring_volatile

Role = Literal["system", "user", "assistant", "tool"]
MessageKey = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """``arguments`` is JSON text, or whatever malformed text an agent echoed."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> object:
        """The arguments as an object; malformed text stays text."""
        if not self.arguments.strip():
            return {}
        try:
            return orjson.loads(self.arguments)
        except orjson.JSONDecodeError:
            pass
        try:
            return orjson.loads(whole_characters(self.arguments.encode(errors="replace")))
        except orjson.JSONDecodeError:
            return self.arguments


@dataclass(frozen=True, slots=True)
class Message:
    """One message. ``tool_calls`` and ``reasoning`` occur only on assistant messages, ``tool_call_id`` only on tool
    messages.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""
    origin: str = ""
    """Id of the reply that an assistant message claims to repeat, where the wire API carries one; "" where it does not.
    """


def message_key(message: Message) -> MessageKey:
    """What must be equal for two messages to be the same turn of a conversation.

    User, system and tool text counts exactly, but for the listed volatile spans of the first two. For assistant
    messages the text counts without surrounding white space, reasoning does not count (agents drop it), and arguments
    count as JSON values.
    """
    if message.role == "tool":
        return (message.role, message.content)
    if message.role != "assistant":
        return (message.role, ignoring_volatile(message.content))
    calls = tuple((call.name, _canonical(call)) for call in message.tool_calls)
    return ("assistant", message.content.strip(), calls)


def _canonical(call: ToolCall) -> bytes | str:
    value = call.parsed()
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
