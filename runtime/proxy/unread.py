"""What an agent is told when its model wrote something that was meant for a tool call and cannot be read as one.

As plain text it would be the agent's final answer. So the reply gets a call of a tool that does not exist: every agent
answers that, in its own words, and the model reads them and tries again. Knows no wire API and no format of calls.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import new_call_id
from runtime.proxy.parsers.values import json_text

UNREAD_CALL = "unreadable_tool_call"
_PROBLEM = "this was meant for a tool call and could not be read as one; nothing was run"
_MAX_CHARACTERS = 2000


def announced(parsed: ParsedReply) -> ParsedReply:
    """``parsed`` with one more call for each of its ``unread`` texts. Never the name of a real tool: one without
    required arguments would run.
    """
    calls = tuple(
        ToolCall(new_call_id(), UNREAD_CALL, json_text({"problem": _PROBLEM, "written": text[:_MAX_CHARACTERS]}))
        for text in parsed.unread
    )
    return replace(parsed, tool_calls=(*parsed.tool_calls, *calls))
