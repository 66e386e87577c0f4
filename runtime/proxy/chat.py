"""What a dialect hands to a session and gets back: one request for a reply, and the reply.

Knows neither wire JSON nor tokens beyond their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from runtime.proxy.messages import Message, ToolCall

Normalise = Callable[[Any], tuple[Message, ...]]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request. ``wire`` are the messages as the agent sent them; ``normalise`` turns one of them into internal
    messages.

    ``head`` is the wire form of everything that stands before the messages (tools, separate system text); a different
    head is a different conversation. ``system`` is the system text that the wire API keeps outside of its messages;
    ``tools`` have the OpenAI function form. ``stop`` are texts that end a reply and are not shown to the agent.
    """

    dialect: str
    model: str
    head: Any
    system: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    wire: list[Any]
    normalise: Normalise
    max_tokens: int | None
    parse_tools: bool = True
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    found_tools: tuple[dict[str, Any], ...] = ()
    """Tools that the messages tell of beside ``tools``: they may be called, but no prompt begins with them."""

    def same_as(self, other: ChatRequest) -> bool:
        """Whether both ask for the same reply: what a repeated request of an SDK must agree in."""
        return (
            self.dialect == other.dialect
            and self.model == other.model
            and self.max_tokens == other.max_tokens
            and self.parse_tools == other.parse_tools
            and self.stop == other.stop
            and self.head == other.head
            and self.wire == other.wire
        )


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A reply as text and tool calls. ``status``: ``ill_formed``: it breaks the model's format, most often by something
    that was meant for a tool call and is none; ``unread`` are the texts of such, which ``content`` holds as well.
    """

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    status: Literal["ok", "ill_formed"] = "ok"
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """One committed reply, ready to be written in any dialect. ``created`` is Unix time in seconds, ``seq`` its place
    in the session, ``stopped_by`` the stop text of the request that ended it.
    """

    id: str
    seq: int
    created: int
    model: str
    parsed: ParsedReply
    finish_reason: Literal["stop", "length", "tool_calls"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    stopped_by: str | None = None
