"""The proof that a chat template is append-only, made before a run starts: what is written between the model's replies
never depends on what comes later, so stored tokens can be continued by the tokens of new messages alone.

Short conversations are rendered whole after every turn and cut at the replies. Nothing outside of a reply may change or
differ from the suffix that the codec makes; a reply itself may be re-spelled by the template (Qwen 3, GLM and gpt-oss
drop the reasoning of earlier turns), because the proxy keeps the tokens that were sampled. Knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import Message, ToolCall
from runtime.proxy.refusal import Refusal


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


class Text(Protocol):
    @property
    def text(self) -> str: ...


class Examined(Protocol):
    """What is asked of a codec: ``text`` is a whole conversation, ``render_suffix`` what follows a reply."""

    @property
    def prelude(self) -> list[Message]: ...

    @property
    def tokens(self) -> Encoder: ...

    @property
    def shows_tools(self) -> bool: ...

    def text(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, generate: bool = True) -> str: ...

    def render_suffix(
        self, messages: Sequence[Message], *, calls: Sequence[ToolCall], generate: bool = True
    ) -> Text: ...

    def read(self, text: str, tools: Sequence[dict[str, Any]] | None, *, complete: bool = True) -> ParsedReply: ...


PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "Look at a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


@dataclass(frozen=True)
class Verdict:
    """``problem`` says what keeps the template from being append-only. ``respells``: it writes earlier replies in other
    words than they were sampled in; the proxy does not. ``reads_calls``: the codec's format reads a tool call that the
    template has written. ``shows_tools``: a prompt tells the model which tools there are, where it has to be told.
    """

    problem: str | None
    respells: bool
    reads_calls: bool
    shows_tools: bool = True


def _reply(number: int, text: str = "", *, call: bool = False, reasoning: str = "") -> Message:
    name = f"reply-{number}"
    calls = (ToolCall(f"call0000{number}", "probe", f'{{"path":"{name}.py"}}'),) if call else ()
    return Message("assistant", f"{text} {name}" if text else "", calls, None, reasoning)


def _result(number: int) -> Message:
    return Message("tool", f"line-{number}\nline 2\n", tool_call_id=f"call0000{number}")


def _user(number: int) -> Message:
    return Message("user", f"  user-{number}?\n\n")


def _mark(message: Message) -> str:
    """What a template that trims or quotes a text leaves of it."""
    found = re.search(r"(?:line|user)-\d", message.content)
    assert found is not None
    return found[0]


SHAPES: dict[str, list[list[Message]]] = {
    "a user message after an answer": [[_reply(0, "Done"), _user(0)], [_reply(1, "Done"), _user(1)]],
    "a tool result after a call": [
        [_reply(0, "I look", call=True), _result(0)],
        [_reply(1, call=True), _result(1)],
        [_reply(2, "Done"), _user(2)],
    ],
    "a message after reasoning": [
        [_reply(0, call=True, reasoning="Because."), _result(0)],
        [_reply(1, "Done", reasoning="Therefore."), _user(1)],
        [_reply(2, "Done", reasoning="Hence."), _user(2)],
    ],
}
"""What a coding agent's conversation consists of: for each, turns of a reply and what follows it."""


def examine(codec: Examined) -> Verdict:
    """Renders every shape with and without tools."""
    head = [*codec.prelude[:-1], Message("user", "Repair it.\n")]
    problem, respells = None, False
    for what, turns in SHAPES.items():
        for tools in ((), (PROBE_TOOL,)):
            try:
                found, changed = _follow(codec, head, turns, tools)
            except Refusal as refusal:
                found, changed = str(refusal), False
            respells = respells or changed
            if found is not None and problem is None:
                problem = f"{what}: {found}" if ":" in found else f"{what} {found}"
    return Verdict(problem, respells, _reads_calls(codec, head), codec.shows_tools)


def _follow(
    codec: Examined, head: list[Message], turns: list[list[Message]], tools: tuple[dict[str, Any], ...]
) -> tuple[str | None, bool]:
    """What goes wrong in one conversation, and whether the template re-spells replies."""
    conversation = list(head)
    start = codec.text(head, tools, generate=False)
    whole = codec.text(head, tools)
    contexts: list[tuple[Message, str]] = []
    respells = False
    for reply, *added in turns:
        before, conversation = whole, [*conversation, reply, *added]
        whole = codec.text(conversation, tools)
        context = codec.render_suffix(added, calls=reply.tool_calls, generate=False).text
        suffix = codec.render_suffix(added, calls=reply.tool_calls).text
        if not all(_mark(message) in context for message in added):
            return "leaves a message out", respells
        contexts.append((reply, context))
        cut = _cut(whole, start, contexts)
        if isinstance(cut, str):
            return cut, respells
        if whole[cut:] != suffix:
            return "is rendered differently at the end of a longer conversation", respells
        if codec.tokens.encode(whole) != codec.tokens.encode(whole[:cut]) + codec.tokens.encode(suffix):
            return "has other tokens at the end of a longer conversation than on its own", respells
        respells = respells or not whole.startswith(before)
    return None, respells


def _cut(whole: str, start: str, contexts: list[tuple[Message, str]]) -> int | str:
    """Where the last of ``contexts`` begins in ``whole``, or what is wrong before it."""
    if not whole.startswith(start):
        return "changes the tokens of earlier turns"
    position = cut = len(start)
    for number, (reply, context) in enumerate(contexts):
        # Every reply has its own mark in its text and in its arguments; a template may write one of the two.
        mark = whole.find(f"reply-{number}", position)
        if mark < 0 and reply.content:
            return "changes the tokens of earlier turns: the text of a reply is gone"
        cut = whole.find(context, max(mark, position))
        if cut < 0:
            return "changes the tokens of earlier turns: what followed a reply is written differently later"
        position = cut + len(context)
    return cut


def _reads_calls(codec: Examined, head: list[Message]) -> bool:
    reply = _reply(0, call=True)
    try:
        whole = codec.text([*head, reply, _result(0)], (PROBE_TOOL,))
        prompt = codec.text(head, (PROBE_TOOL,))
        suffix = codec.render_suffix([_result(0)], calls=reply.tool_calls).text
    except Refusal:
        return False
    if not whole.startswith(prompt):
        prompt = codec.text(head, (PROBE_TOOL,), generate=False)
    if not whole.startswith(prompt) or not whole.endswith(suffix):
        return False
    read = codec.read(whole[len(prompt) : len(whole) - len(suffix)], [PROBE_TOOL])
    return [(call.name, call.parsed()) for call in read.tool_calls] == [
        (call.name, call.parsed()) for call in reply.tool_calls
    ]
