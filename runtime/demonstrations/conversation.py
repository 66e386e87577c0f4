"""A conversation as the proxy would have it: the tokens of prompts, replies and observations, one after the other.

The same codec, tool schemas and rules as a session of the proxy; a test holds both against each other. Knows no tasks.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from runtime.demonstrations.types import Edit
from runtime.proxy.call_text import call_text
from runtime.proxy.codec import ChatCodec
from runtime.proxy.messages import Message, ToolCall


class Speaker:
    """Writes calls of these ``tools`` as the model would. Shared by all conversations of a process."""

    def __init__(self, codec: ChatCodec, tools: Sequence[Mapping[str, Any]]) -> None:
        self.codec = codec
        self.tools = [dict(tool) for tool in tools]
        self._end = codec.stop_token_ids[0]
        self.submit = lru_cache(1)(lambda: self.call("submit"))

    def edit(self, edit: Edit) -> str | None:
        """A call of ``edit_file``, as ``call``. Its line is named always: one habit is learnt more easily than two."""
        return self.call("edit_file", path=edit.path, line=edit.line, old=edit.old, new=edit.new)

    def call(self, name: str, **arguments: str | int) -> str | None:
        """The text of a reply; None where the arguments would not be read as they are."""
        text = call_text(self.codec, self.tools, name, arguments)
        if text is None:
            return None
        (read,) = self.codec.read(text, self.tools).tool_calls
        return text if json.loads(read.arguments or "{}") == arguments else None

    def reply(self, text: str) -> list[int]:
        """A reply's tokens, the one that ends it included."""
        return [*self.codec.tokens.encode(text), self._end]


class Conversation:
    """Tokens and mask of one conversation, as it goes on."""

    def __init__(self, speaker: Speaker, first: str) -> None:
        self._speaker = speaker
        rendered = speaker.codec.render_first([Message("user", first)], speaker.tools)
        self.input_ids: list[int] = rendered.encode()
        self.loss_mask = [0] * len(self.input_ids)
        self._said: list[int] = []

    def say(self, text: str, *, trained: bool) -> None:
        """The policy's reply."""
        self._said = self._speaker.reply(text)
        self._add(self._said, trained)

    def hear(self, name: str, text: str) -> None:
        """What the tool ``name`` answered to the reply before."""
        codec, call = self._speaker.codec, ToolCall("call00000", name, "{}")
        rendered = codec.render_suffix([Message("tool", text, tool_call_id=call.id)], calls=[call])
        self._add(codec.extends(self._said, array("i", rendered.encode())).tolist(), False)

    def _add(self, ids: list[int], trained: bool) -> None:
        self.input_ids += ids
        self.loss_mask += [int(trained)] * len(ids)
