"""Where wire APIs meet the proxy: one dialect per API, and the readers that all of them share.

Knows nothing of sessions, tokens or HTTP transport.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

import orjson

from runtime.proxy.chat import ChatRequest, Reply
from runtime.proxy.messages import ToolCall
from runtime.proxy.refusal import Kind, Refusal

RoleT = TypeVar("RoleT", bound=str)

EVENT_CHARACTERS = 13
"""Text per event of a replayed stream: about what a model gives in three or four tokens."""


_QUOTED = 80
"""Characters of a value that a refusal repeats."""


class Action(Enum):
    """What a route does, whatever its wire API."""

    CHAT = "chat"
    COUNT_TOKENS = "count_tokens"
    MODELS = "models"


class Route(NamedTuple):
    """``path`` is that below a session."""

    method: str
    path: str
    action: Action


FREE_FORM = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""Parameters of a free-form tool, which takes one text, in the form of a function."""


class Dialect(Protocol):
    """One wire API: requests in, replies, streams and errors out."""

    name: str
    routes: tuple[Route, ...]
    messages_field: str
    """The list in a request that grows from turn to turn."""

    def parse(self, body: dict[str, Any]) -> ChatRequest:
        """Raises ``Refusal`` of kind ``INVALID`` that names the field. Messages are read later, by
        ``ChatRequest.normalise``.
        """

    def reply(self, reply: Reply, request: ChatRequest) -> bytes:
        """The body of a reply that is not streamed."""

    def stream(self, reply: Reply, request: ChatRequest) -> bytes:
        """All server-sent events of a finished reply."""

    def error(self, refusal: Refusal) -> bytes:
        """The body of an error reply."""

    def stream_error(self, refusal: Refusal) -> bytes:
        """The event that ends a stream whose headers were sent before the reply failed."""


def invalid(message: str, param: str) -> Refusal:
    return Refusal(Kind.INVALID, f"{param}: {message}", param=param)


def pieces(text: str) -> Iterator[str]:
    return (text[start : start + EVENT_CHARACTERS] for start in range(0, len(text), EVENT_CHARACTERS))


def read_model(body: dict[str, Any]) -> str:
    model = body.get("model", "policy")
    if not isinstance(model, str):
        raise invalid("must be a string", "model")
    return model


def read_messages(body: dict[str, Any]) -> list[Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("must be a list of at least one message", "messages")
    return messages


def read_limit(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise invalid("must be a whole number of at least 1", name)
    return value


def read_flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid("must be true or false", name)
    return value


def read_choice(body: dict[str, Any]) -> bool:
    """Whether the reply may hold calls, by ``tool_choice``. A reply that must hold one, or only certain ones, would
    have to be sampled otherwise than the policy samples, so each such form is refused by name.
    """
    value = body.get("tool_choice")
    kind = value.get("type") if isinstance(value, dict) else value
    if value is None or kind in ("auto", "none"):
        return kind != "none"
    named = _quoted(kind if isinstance(kind, str) else value)
    raise invalid(f"{named} is not supported: the policy chooses by itself; use auto or none", "tool_choice")


def read_format(value: Any, where: str) -> None:
    """Raises for a form that replies are forced into."""
    if value is not None and object_field(value, where).get("type", "text") != "text":
        raise invalid("only {'type': 'text'} is supported: the policy is not forced into a form", where)


def _quoted(value: Any) -> str:
    """A value of a request as a refusal quotes it."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "..."


def read_stop(body: dict[str, Any], name: str) -> tuple[str, ...]:
    value = body.get(name)
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts) or len(texts) > 16:
        raise invalid("must be a text or a list of at most 16 texts, none of them empty", name)
    return tuple(texts)


def object_field(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid("must be an object", where)
    return value


def blocks_of(content: Any, where: str) -> list[dict[str, Any]]:
    """The parts of a content, whatever the wire API calls them. A text alone, in the place of the list or in it, and
    one part without a list count as what they mean; null is nothing. A part alone is known by its type: any other
    object in the place of a content is a mistake.
    """
    if content is None:
        return []
    if isinstance(content, dict) and not isinstance(content.get("type"), str):
        raise invalid("must be a string or a list of blocks", where)
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, str | dict) for part in parts):
        raise invalid("must be a string or a list of blocks", where)
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def known_role(value: Any, roles: Mapping[str, RoleT], where: str, *, more: str = "") -> RoleT:
    """The one of ``roles`` that is written here; ``more`` are further ones to say."""
    role = roles.get(value) if isinstance(value, str) else None
    if role is None:
        raise invalid(f"{value!r} is unknown; use {more or 'one of '}{', '.join(roles)}", where)
    return role


def text_field(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise invalid("must be a string", where)
    return value


def free_form_arguments(text: Any) -> str:
    """The arguments of a free-form tool's call."""
    return orjson.dumps({"input": text}).decode()


def free_form_text(call: ToolCall) -> str | None:
    """The text that a free-form tool is called with; None where the model called it otherwise."""
    arguments = call.parsed()
    free = arguments.get("input") if isinstance(arguments, dict) and set(arguments) == {"input"} else None
    return free if isinstance(free, str) else None
