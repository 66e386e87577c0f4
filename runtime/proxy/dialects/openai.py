"""OpenAI chat completions: ``POST /v1/chat/completions``, streamed and not.

Sampling parameters of the request are read past: the session's limits decide. What cannot be honoured and would change
the meaning of a reply (several choices, forced formats and calls, log-probabilities, sound) is refused by name.
"""

from __future__ import annotations

from typing import Any

import orjson

from runtime.proxy.chat import ChatRequest, Reply
from runtime.proxy.dialects.base import (
    FREE_FORM,
    Action,
    Route,
    blocks_of,
    free_form_arguments,
    free_form_text,
    invalid,
    known_role,
    object_field,
    pieces,
    read_choice,
    read_flag,
    read_format,
    read_limit,
    read_messages,
    read_model,
    read_stop,
    text_field,
)
from runtime.proxy.dialects.blocks import not_shown, shown_text
from runtime.proxy.messages import Message, Role, ToolCall
from runtime.proxy.refusal import ContextOverflow, Kind, Refusal
from runtime.proxy.volatile import without_volatile

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_ERROR_TYPES = {
    Kind.UNAUTHENTICATED: ("authentication_error", "invalid_api_key"),
    Kind.NOT_FOUND: ("invalid_request_error", "not_found"),
    Kind.CLOSED: ("invalid_request_error", "session_closed"),
    Kind.OVERFLOW: ("invalid_request_error", "context_length_exceeded"),
    Kind.TOO_LARGE: ("invalid_request_error", "request_too_large"),
    Kind.BUSY: ("server_error", "server_busy"),
    Kind.CROWDED: ("server_error", "server_busy"),
    Kind.UNAVAILABLE: ("server_error", "model_unavailable"),
    Kind.INTERNAL: ("server_error", "internal_error"),
}


class OpenAIChat:
    """See https://platform.openai.com/docs/api-reference/chat."""

    name = "openai"
    routes: tuple[Route, ...] = (
        Route("POST", "/v1/chat/completions", Action.CHAT),
        Route("GET", "/v1/models", Action.MODELS),
    )
    messages_field = "messages"

    def parse(self, body: dict[str, Any]) -> ChatRequest:
        if body.get("n", 1) not in (1, None):
            raise invalid("only one reply per request: every sampled token belongs to one trajectory; use n=1", "n")
        if body.get("functions"):
            raise invalid("is the retired form; use tools", "functions")
        for name in ("logprobs", "top_logprobs"):
            if body.get(name):
                raise invalid("is not supported: they stay with the trajectory; leave it out", name)
        if body.get("modalities") not in (None, [], ["text"]):
            raise invalid("only ['text'] is supported", "modalities")
        read_format(body.get("response_format"), "response_format")
        tools = body.get("tools") or []
        stream_options = body.get("stream_options") or {}
        limit = read_limit(body, "max_completion_tokens")
        return ChatRequest(
            dialect=self.name,
            model=read_model(body),
            head=tools,
            system=(),
            tools=_read_tools(tools),
            wire=read_messages(body),
            normalise=normalise,
            max_tokens=limit if limit is not None else read_limit(body, "max_tokens"),
            parse_tools=read_choice(body),
            stop=read_stop(body, "stop"),
            stream=read_flag(body, "stream"),
            include_usage=read_flag(object_field(stream_options, "stream_options"), "include_usage"),
        )

    def reply(self, reply: Reply, request: ChatRequest) -> bytes:
        parsed = reply.parsed
        message: dict[str, Any] = {"role": "assistant", "content": parsed.content}
        if parsed.reasoning:
            message["reasoning_content"] = parsed.reasoning
        if parsed.tool_calls:
            message["tool_calls"] = _tool_calls(reply, request)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
        return orjson.dumps({**_frame(reply, "chat.completion"), "choices": [choice], "usage": _usage(reply)})

    def stream(self, reply: Reply, request: ChatRequest) -> bytes:
        frame = _frame(reply, "chat.completion.chunk")
        parsed = reply.parsed
        # Every event but its delta is the same: one dump gives the bytes around it.
        before, after = orjson.dumps(
            {**frame, "choices": [{"index": 0, "delta": "DELTA", "logprobs": None, "finish_reason": None}]}
        ).split(b'"DELTA"')
        before = b"data: " + before
        after += b"\n\n"
        out = [before, b'{"role":"assistant","content":""}', after]
        for field, text in (("reasoning_content", parsed.reasoning), ("content", parsed.content)):
            start = b'{"' + field.encode() + b'":'
            for piece in pieces(text):
                out += [before, start, orjson.dumps(piece), b"}", after]
        if parsed.tool_calls:
            calls = [{"index": index, **call} for index, call in enumerate(_tool_calls(reply, request))]
            out += [before, orjson.dumps({"tool_calls": calls}), after]
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": reply.finish_reason}
        out += [b"data: ", orjson.dumps({**frame, "choices": [last]}), b"\n\n"]
        if request.include_usage:
            out += [b"data: ", orjson.dumps({**frame, "choices": [], "usage": _usage(reply)}), b"\n\n"]
        out.append(b"data: [DONE]\n\n")
        return b"".join(out)

    def error(self, refusal: Refusal) -> bytes:
        return openai_error(refusal)

    def stream_error(self, refusal: Refusal) -> bytes:
        return b"data: " + openai_error(refusal) + b"\n\n"


def openai_error(refusal: Refusal) -> bytes:
    """The body of an error in the shape that both of OpenAI's wire APIs share."""
    kind, code = _ERROR_TYPES.get(refusal.kind, ("invalid_request_error", None))
    message = str(refusal)
    if isinstance(refusal, ContextOverflow):
        message = (
            f"This model's maximum context length is {refusal.limit} tokens. However, your messages resulted in "
            f"{refusal.tokens} tokens. Please reduce the length of the messages."
        )
    return orjson.dumps({"error": {"message": message, "type": kind, "param": refusal.param, "code": code}})


def normalise(sent: Any) -> tuple[Message, ...]:
    """One wire message. Raises ``Refusal`` of kind ``INVALID``."""
    message = object_field(sent, "messages[]")
    role = known_role(message.get("role"), _ROLES, "messages[].role")
    content = _text(message.get("content"))
    for field in ("refusal", "audio"):  # an assistant's, beside its content
        if message.get(field):
            said = (
                message[field] if isinstance(message[field], str) else not_shown({"type": field, field: message[field]})
            )
            content = f"{content}\n{said}" if content else said
    if role == "system":
        return (Message(role, without_volatile(content)),)
    if role == "assistant":
        calls = message.get("tool_calls") or ()
        if not calls and message.get("function_call"):
            calls = ({"function": message["function_call"]},)  # the retired form, in a history from elsewhere
        if not isinstance(calls, list | tuple):
            raise invalid("must be a list", "messages[].tool_calls")
        # Some providers' reasoning is no text; agents that have talked to them echo it.
        thoughts = (message.get("reasoning_content"), message.get("reasoning"))
        reasoning = next((one for one in thoughts if isinstance(one, str) and one), "")
        return (Message(role, content, tuple(map(_read_call, calls)), None, reasoning),)
    if role == "tool":
        identity = message.get("tool_call_id")
        return (Message(role, content, (), identity if isinstance(identity, str) else None),)
    return (Message(role, content),)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in blocks_of(content, "messages[].content"):
        kind = part.get("type")
        if kind in ("text", "refusal"):
            texts.append(text_field(part.get(kind), f"messages[].content[].{kind}"))
        else:
            texts.append(shown_text(part, "messages[].content[]"))
    return "\n".join(texts)


def _read_call(sent: Any) -> ToolCall:
    call = object_field(sent, "messages[].tool_calls[]")
    identity = call.get("id")
    if isinstance(call.get("custom"), dict):
        custom = call["custom"]
        name, arguments = custom.get("name"), free_form_arguments(custom.get("input", ""))
    else:
        function = object_field(call.get("function"), "messages[].tool_calls[].function")
        name, arguments = function.get("name"), function.get("arguments", "")
    return ToolCall(
        identity if isinstance(identity, str) else "",
        text_field(name, "messages[].tool_calls[].function.name"),
        arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode(),
    )


def _read_tools(tools: Any) -> tuple[dict[str, Any], ...]:
    """Tools in function form; a free-form one takes one text. Tools of any other type run at the provider and are left
    out, so the policy can never call them.
    """
    if not isinstance(tools, list):
        raise invalid("must be a list", "tools")
    found: list[dict[str, Any]] = []
    for index, tool in enumerate(tools):
        kind = object_field(tool, f"tools[{index}]").get("type", "function")
        if kind == "function":
            function = object_field(tool.get("function"), f"tools[{index}].function")
            text_field(function.get("name"), f"tools[{index}].function.name")
            found.append(tool)
        elif kind == "custom":
            custom = object_field(tool.get("custom"), f"tools[{index}].custom")
            name = text_field(custom.get("name"), f"tools[{index}].custom.name")
            function = {"name": name, "description": custom.get("description") or "", "parameters": FREE_FORM}
            found.append({"type": "function", "function": function})
    return tuple(found)


def _tool_calls(reply: Reply, request: ChatRequest) -> list[dict[str, Any]]:
    custom = {tool["custom"]["name"] for tool in request.head if tool.get("type") == "custom"}
    found: list[dict[str, Any]] = []
    for call in reply.parsed.tool_calls:
        free = free_form_text(call) if call.name in custom else None
        if free is None:
            form = {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        else:
            form = {"type": "custom", "custom": {"name": call.name, "input": free}}
        found.append({"id": call.id, **form})
    return found


def _frame(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{reply.id}", "object": kind, "created": reply.created, "model": reply.model}


def _usage(reply: Reply) -> dict[str, Any]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
