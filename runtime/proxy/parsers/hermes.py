"""Tool calls of the Hermes format, as Qwen 2.5 and Qwen 3 write them: ``<tool_call>{"name": ..., "arguments":
{...}}</tool_call>``.

Where a call ends is decided by its JSON, so its texts may hold any marker. Does not know which tools exist: an unknown
name is the agent's business.
"""

from __future__ import annotations

import re

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import ToolSchemas, new_call_id, read_reasoning
from runtime.proxy.parsers.values import call_arguments, json_at

_BEGIN = re.compile(r"(?:^|(?<=>))<tool_call>\s*|<tool_call>\s*(?=[\[{<\"])", re.MULTILINE)
"""A tag in the middle of a sentence is spoken of."""
_END = "</tool_call>"
_SIGN = re.compile("<tool_call>")
_SPACE = re.compile(r"\s*")


def parse_hermes(text: str, tools: ToolSchemas | None, *, complete: bool, thinking: bool = False) -> ParsedReply:
    """A block that is not such an object stays in the content, and the reply is ``ill_formed``. The end of the reply
    closes a block as well, unless the reply was cut.
    """

    def read(said: str) -> ParsedReply:
        return ParsedReply(said) if tools is None else _read_blocks(said, complete=complete)

    return read_reasoning(text, read, thinking=thinking, sign=_SIGN)


def _read_blocks(text: str, *, complete: bool) -> ParsedReply:
    calls: list[ToolCall] = []
    unread: list[str] = []
    content: list[str] = []
    position = 0
    while (begin := _BEGIN.search(text, position)) is not None:
        content.append(text[position : begin.start()])
        call, position = _read_call(text, begin.end(), complete=complete)
        if call is None:
            unread.append(text[begin.start() : position])
            content.append(unread[-1])
        else:
            calls.append(call)
    content.append(text[position:])
    said = "".join(content)
    return ParsedReply(
        # White space between text and calls is glue of the format, not something the model says.
        said.strip() if calls else said,
        tuple(calls),
        status="ill_formed" if unread else "ok",
        unread=tuple(unread),
    )


def _read_call(text: str, start: int, *, complete: bool) -> tuple[ToolCall | None, int]:
    """The call of the block whose content begins at ``start``, if it is one, and where the block ends."""
    found = json_at(text, start)
    if found is not None:
        value, end = found
        space = _SPACE.match(text, end)
        after = end if space is None else space.end()
        closed = text.startswith(_END, after)
        if closed or (complete and after == len(text)):
            arguments = name = None
            if isinstance(value, dict):
                name, arguments = value.get("name"), call_arguments(value.get("arguments", value.get("parameters")))
            stop = after + len(_END) if closed else after
            if not isinstance(name, str) or not name or arguments is None:
                return None, stop
            return ToolCall(new_call_id(), name, arguments), stop
        start = end
    stop = text.find(_END, start)
    again = _BEGIN.search(text, start)
    ends = [len(text)]
    if stop >= 0:
        ends.append(stop + len(_END))
    if again is not None:
        ends.append(again.start())
    return None, min(ends)
