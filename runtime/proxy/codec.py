"""The chat codec of one model: messages to prompt ids, later messages to a suffix of ids, sampled ids to a reply.

What the model sampled is decoded for the agent and never encoded again. A later turn's suffix is taken from a synthetic
rendering: a short conversation that ends in the same kind of assistant turn, followed by the new messages; everything
after that assistant turn, starting at its closing control token, is the suffix. That is right exactly when the template
is append-only, so ``load_codec`` proves it (``append_only``) and refuses a template that is not. Knows nothing of HTTP,
sessions or sampling.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import orjson

from runtime.errors import UserError
from runtime.proxy.append_only import PROBE_TOOL, examine
from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import Message, ToolCall
from runtime.proxy.model_folder import ModelFolder
from runtime.proxy.parsers import NAMES, format_named
from runtime.proxy.parsers.base import Format
from runtime.proxy.parsers.meant import meant_for_a_call
from runtime.proxy.refusal import Kind, Refusal
from runtime.proxy.template import ChatTemplate, template_messages
from runtime.proxy.tokens import Guard, Tokens

log = logging.getLogger(__name__)

_MARK = "\ue002reply\ue003"
_SYSTEM = Message("system", "s")
_USER = Message("user", "u")
_ANSWER = Message("assistant", _MARK)
_NEXT = "\ue002next\ue003"
_MARKED_ARGUMENTS = orjson.dumps({"value": _MARK}).decode()
"""Templates that write no text beside a call show where the turn ends by the mark in its arguments."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Text that is ready to be encoded; ``encode`` may run in a thread. ``size`` is its length in characters."""

    text: str
    guard: Guard

    @property
    def size(self) -> int:
        return len(self.text)

    def encode(self) -> list[int]:
        return self.guard.encode(self.text)


class ChatCodec:
    """One model's chat format. May be shared by all sessions and threads."""

    def __init__(
        self, tokens: Tokens, template: ChatTemplate, style: Format, *, stop_tokens: Sequence[str] = ()
    ) -> None:
        """``stop_tokens`` are the model's end-of-sequence tokens as text. Raises ``ValueError`` saying what the
        template lacks.
        """
        self.tokens = tokens
        self._template = template
        self._style = style
        wanted = dict.fromkeys([*stop_tokens, *style.stops])
        stops = [token for token in wanted if token in tokens.control and token not in style.inner]
        self.prelude = self._find_prelude()
        """The shortest beginning of a conversation that the template accepts."""
        close, self.repeats_close = self._close_after_answer()
        if close not in stops and close not in style.inner:
            stops.append(close)
        self.stop_token_ids: tuple[int, ...] = tuple(tokens.control[stop] for stop in stops)
        """Tokens that end a reply; they are part of it."""
        self._closers = [*stops, close] if close not in stops else stops
        self.system_anywhere = self._keeps_system_text()
        """Whether the template accepts system messages after the first message."""
        self.shows_tools = not style.shown_tools or self._shows_tools()
        """Whether a prompt tells the model of the tools, where its format needs them told."""
        self._said = False
        self.opens_thinking = self._render(self.prelude, None).rstrip().endswith("<think>")
        """Whether the generation prompt begins the reasoning, so that a reply holds no beginning of its own."""

    # -- messages to ids

    def render_first(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Rendered:
        """The whole first prompt. Raises ``Refusal`` when the template does not take these messages. That it does not
        show ``tools`` is said once.
        """
        if tools and not self.shows_tools and not self._said:
            self._said = True
            log.warning("the chat template does not show tools: the model learns nothing of the %d offered", len(tools))
        guard = Guard(self.tokens)
        rest = self._guarded(self._folded(messages, first=True), guard)
        return Rendered(self._render(rest, guard.value(list(tools))), guard)

    def render_suffix(
        self, messages: Sequence[Message], *, calls: Sequence[ToolCall], generate: bool = True
    ) -> Rendered:
        """What follows an assistant turn with these tool ``calls`` (of which only number and names count): its closing
        token, ``messages``, the generation prompt unless ``generate`` is false.

        The first id of the encoding is the closing token, which the sampled ids may already hold. Raises ``Refusal``.
        """
        guard = Guard(self.tokens)
        rest = self._guarded(self._folded(messages, first=False), guard)
        marked = tuple(
            ToolCall(call.id or f"call_{number}", guard.text(call.name), _MARKED_ARGUMENTS)
            for number, call in enumerate(calls)
        )
        try:
            text = self._after(marked, rest, generate=generate)
        except Refusal:
            if len(marked) < 2:
                raise
            # A template may know single calls alone (Llama 3) while the model made several: what follows is the same.
            text = self._after(marked[:1], rest, generate=generate)
        return Rendered(text, guard)

    def text(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, generate: bool = True) -> str:
        """What the template makes of messages that are no one's input: nothing in them is guarded. Raises
        ``Refusal``.
        """
        return self._render(self._folded(messages, first=True), list(tools), generate=generate)

    def extends(self, sampled: Sequence[int], context: array[int]) -> array[int]:
        """``context``, the ids of a suffix, without a closing token that the ``sampled`` ids of the reply hold already.

        A reply that ended in another stop token of the model is closed as well; the template's own closing token is
        then left out, except where it opens the next message.
        """
        if not sampled or sampled[-1] not in self.stop_token_ids:
            return context
        return context[1:] if self.repeats_close or sampled[-1] == context[0] else context

    # -- ids to messages

    def parse(
        self,
        ids: Sequence[int],
        tools: Sequence[dict[str, Any]] | None,
        *,
        complete: bool = True,
        stop: Sequence[str] = (),
    ) -> ParsedReply:
        """The reply as the agent sees it, without the stop token.

        ``tools`` is None when the request allows no tool call; ``complete`` is false when a token limit cut the reply;
        the first text of ``stop`` that occurs, and all behind it, is left out.
        """
        body = ids[:-1] if ids and ids[-1] in self.stop_token_ids else ids
        text = self.tokens.decode(body) if body else ""
        text = text[: min((found for each in stop if (found := text.find(each)) >= 0), default=len(text))]
        return self.read(text, tools, complete=complete)

    def read(self, text: str, tools: Sequence[dict[str, Any]] | None, *, complete: bool = True) -> ParsedReply:
        """A reply's text, without its stop token, in this model's format."""
        schemas = None if tools is None else {tool["function"]["name"]: _parameters(tool) for tool in tools}
        parsed = self._style.parser(text, schemas, complete=complete, thinking=self.opens_thinking)
        if not schemas or parsed.tool_calls or parsed.unread:
            return parsed
        meant = meant_for_a_call(parsed.content, schemas)
        return parsed if meant is None else replace(parsed, status="ill_formed", unread=(meant,))

    # -- the template

    def _render(self, messages: Sequence[Message], tools: list[Any] | None, *, generate: bool = True) -> str:
        entries = [self._style.prepare(entry) for entry in template_messages(messages)]
        try:
            return self._template.render(entries, tools=tools, generate=generate)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise Refusal(Kind.INVALID, f"the model's chat template refuses these messages: {error}") from None

    def _after(self, calls: tuple[ToolCall, ...], messages: Sequence[Message], *, generate: bool) -> str:
        """What the template writes behind an assistant turn, from the token on that closes it."""
        text = self._render([*self.prelude, replace(_ANSWER, tool_calls=calls), *messages], None, generate=generate)
        start = text.rfind(_MARK)
        found = [position for token in self._closers if (position := text.find(token, start)) >= 0]
        if start < 0 or not found:
            raise Refusal(
                Kind.INVALID, "the model's chat template does not close an assistant turn before these messages"
            )
        return text[min(found) :]

    def _find_prelude(self) -> list[Message]:
        """With a system text of ours the template does not fall back to a long default one."""
        problem = ""
        for prelude in ([_SYSTEM, _USER], [_USER]):
            try:
                self._render([*prelude, _ANSWER, _USER], None)
            except Refusal as refusal:
                problem = str(refusal)
            else:
                return prelude
        raise ValueError(
            f"the chat template renders no conversation of a user, an assistant and a user again: {problem}"
        )

    def _close_after_answer(self) -> tuple[str, bool]:
        """The control token right behind an answer, and whether it does nothing but close.

        It does more where it is the only one between the answer and the next user's text: then it opens that message
        (GLM's ``<|user|>``).
        """
        text = self._render([*self.prelude, _ANSWER, Message("user", _NEXT)], None)
        if text.count(_MARK) != 1 or text.count(_NEXT) != 1:
            raise ValueError("the chat template does not render an assistant's text unchanged, followed by a user's")
        between = text[text.index(_MARK) + len(_MARK) : text.index(_NEXT)]
        close = self.tokens.control_pattern.match(between)
        if close is None:
            raise ValueError("the chat template does not close an assistant turn with a control token of the tokenizer")
        return close[0], self.tokens.control_pattern.search(between, close.end()) is not None

    def _keeps_system_text(self) -> bool:
        # A template may ignore what it does not expect (gpt-oss): then the text would be lost without a word.
        try:
            return _NEXT in self._render([*self.prelude, _ANSWER, Message("system", _NEXT), _USER], None)
        except Refusal:
            return False

    def _shows_tools(self) -> bool:
        try:
            text = self._render(self.prelude, [PROBE_TOOL])
        except Refusal:
            return False
        function = PROBE_TOOL["function"]
        return function["name"] in text and all(name in text for name in function["parameters"]["properties"])

    def _guarded(self, messages: Sequence[Message], guard: Guard) -> list[Message]:
        """Every text that did not come from the model, with control-token spellings taken out."""
        return [
            Message(
                message.role,
                guard.text(message.content),
                tuple(
                    ToolCall(call.id, guard.text(call.name), guard.text(call.arguments)) for call in message.tool_calls
                ),
                message.tool_call_id,
                guard.text(message.reasoning),
            )
            for message in messages
        ]

    def _folded(self, messages: Sequence[Message], *, first: bool) -> Sequence[Message]:
        """System messages after the beginning become marked user text where the template takes none there."""
        if self.system_anywhere:
            return messages
        return [
            Message("user", f"<system-reminder>\n{message.content}\n</system-reminder>")
            if message.role == "system" and not (first and index == 0)
            else message
            for index, message in enumerate(messages)
        ]


def _parameters(tool: dict[str, Any]) -> dict[str, Any]:
    parameters = tool["function"].get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def open_codec(folder: ModelFolder, tool_parser: str) -> ChatCodec:
    """The codec of a model, whether its template is append-only or not.

    Raises ``UserError`` naming the folder when ``tool_parser`` is unknown or the template holds no conversation.
    """
    if tool_parser not in NAMES:
        raise UserError(f"tool_parser: {tool_parser!r} is unknown; use one of {', '.join(sorted(NAMES))}")
    style = format_named(tool_parser)
    try:
        template = ChatTemplate(folder.template, names=folder.names)
        return ChatCodec(folder.tokens, template, style, stop_tokens=folder.stop_tokens)
    except (ValueError, jinja2.TemplateSyntaxError) as error:
        raise UserError(f"{folder.path}: {error}") from None


def load_codec(model_folder: Path, tool_parser: str, *, needs_tools: bool = False) -> ChatCodec:
    """The codec of a Hugging Face model folder (``tokenizer.json``, ``tokenizer_config.json``,
    ``chat_template.jinja``), for use.

    Raises ``UserError`` naming the file: when one is missing or unreadable; when the chat template is not append-only,
    because then no suffix can extend tokens that the model has sampled; when it writes tool calls in another format
    than ``tool_parser`` reads; and, for an agent that ``needs_tools``, when it shows the model no tools or writes their
    calls in a form that nothing here reads.
    """
    folder = ModelFolder.read(model_folder)
    codec = open_codec(folder, tool_parser)
    verdict = examine(codec)
    if not verdict.reads_calls and (fitting := fitting_formats(folder)):
        raise UserError(
            f"{model_folder}: the chat template writes tool calls that {tool_parser!r} does not read; "
            f"use tool_parser {' or '.join(fitting)}"
        )
    if verdict.problem:
        raise UserError(
            f"{model_folder}: the chat template is not append-only ({verdict.problem}), so tokens that the model "
            "sampled could not be kept; use a template that only ever adds text at the end"
        )
    if needs_tools and not (verdict.shows_tools and verdict.reads_calls):
        lack = (
            "writes tool calls in a form that no tool_parser reads"
            if verdict.shows_tools
            else "does not show the model which tools there are"
        )
        raise UserError(
            f"{model_folder}: the chat template {lack}, and this scaffold works by tool calls; use a model or a "
            "chat_template.jinja made for tools, or scaffold terminus-2, which needs none"
        )
    return codec


def fitting_formats(folder: ModelFolder) -> list[str]:
    """Names of the formats that read what the model's chat template writes; empty when it writes no tool calls."""
    found = []
    for name in NAMES:
        try:
            codec = open_codec(folder, name)
        except UserError:
            continue  # said in full when this format is asked for
        if examine(codec).reads_calls:
            found.append(name)
    return found
