"""The chat codec of one model: messages to prompt ids, later messages to a suffix of ids, sampled ids to a reply.

What the model sampled is decoded for the agent and never encoded again. A later turn's suffix is taken from a synthetic
rendering: a short conversation that ends in the same kind of assistant turn, followed by the new messages; everything
after that assistant turn, starting at its closing control token, is the suffix. That is right exactly when the template
is append-only, so ``load_codec`` proves it on token ids and refuses a template that is not. Knows nothing of HTTP,
sessions or sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import orjson

from runtime.errors import UserError
from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import Message, ToolCall
from runtime.proxy.parsers import PARSERS
from runtime.proxy.parsers.base import ToolParser
from runtime.proxy.refusal import Kind, Refusal
from runtime.proxy.template import ChatTemplate, template_messages
from runtime.proxy.tokens import Guard, Tokens

_MARK = "\ue002reply\ue003"
_SYSTEM = Message("system", "s")
_USER = Message("user", "u")
_ANSWER = Message("assistant", _MARK)


def _call(number: int) -> ToolCall:
    return ToolCall(f"call_{number}", "tool", "{}")


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
    """One model's chat format. Stateless after construction; may be shared by all sessions and threads."""

    def __init__(
        self, tokens: Tokens, template: ChatTemplate, parser: ToolParser, *, stop_tokens: Sequence[str] = ()
    ) -> None:
        """``stop_tokens`` are the model's end-of-sequence tokens as text. Raises ``ValueError`` saying what the
        template lacks.
        """
        self.tokens = tokens
        self._template = template
        self._parser = parser
        self._stops = [token for token in stop_tokens if token in tokens.control]
        prelude = self._find_prelude()
        self._prelude = prelude
        close = self._close_after_answer()
        if close not in self._stops:
            self._stops.append(close)
        self.stop_token_ids: tuple[int, ...] = tuple(tokens.control[stop] for stop in self._stops)
        """Tokens that end a reply; they are part of it."""
        self.system_anywhere = self._renders([*prelude, _ANSWER, _SYSTEM, _USER])
        """Whether the template accepts system messages after the first message."""

    # -- messages to ids

    def render_first(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Rendered:
        """The whole first prompt. Raises ``Refusal`` when the template does not take these messages."""
        guard = Guard(self.tokens)
        text = self._render(
            template_messages(self._guarded(self._folded(messages, first=True), guard)), guard.value(list(tools))
        )
        return Rendered(text, guard)

    def render_suffix(self, messages: Sequence[Message], *, after_calls: int) -> Rendered:
        """What follows an assistant turn with ``after_calls`` tool calls: its closing token, ``messages``, the
        generation prompt.

        The first id of the encoding is the closing token, which the sampled ids may already hold. Raises ``Refusal``.
        """
        guard = Guard(self.tokens)
        answer = Message("assistant", _MARK, tuple(_call(number) for number in range(after_calls)))
        rest = self._guarded(self._folded(messages, first=False), guard)
        text = self._render(template_messages([*self._prelude, answer, *rest]), None)
        return Rendered(text[self._close_position(text) :], guard)

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
        schemas = None if tools is None else {tool["function"]["name"]: _parameters(tool) for tool in tools}
        return self._parser(text, schemas, complete=complete)

    # -- checks

    def is_append_only(self) -> bool:
        """Whether user and tool messages can be appended to stored ids: see ``why_not_append_only``."""
        return self.why_not_append_only() is None

    def why_not_append_only(self) -> str | None:
        """A sentence that names the first conversation where stored ids plus suffix differ from the whole rendering, or
        None.

        Several conversations are rendered whole after every turn; each prompt must begin with the one before it and the
        reply's ids, and the rest must be the suffix.
        """
        answer = Message("assistant", "Done.")
        called = Message("assistant", "I look.", (ToolCall("call_0", "tool", '{"path":"a.py"}'),))
        bare = Message("assistant", "", (ToolCall("call_1", "tool", '{"path":"b c"}'),))
        tool = Message("tool", "line 1\nline 2\n", tool_call_id="call_0")
        user = Message("user", "  And now?\n\n")
        head = [*self._prelude[:-1], Message("user", "Repair it.\n")]
        shapes: dict[str, list[list[Message]]] = {
            "a user message after an answer": [[answer, user], [answer, _USER]],
            "a tool result after a call": [[called, tool], [bare, tool], [answer, user]],
        }
        for what, turns in shapes.items():
            for tools in ((), (_PROBE_TOOL,)):
                conversation = list(head)
                prompt = self.render_first(conversation, tools).encode()
                for reply, *added in turns:
                    conversation += [reply, *added]
                    try:
                        whole = self.render_first(conversation, tools).encode()
                        suffix = self.render_suffix(added, after_calls=len(reply.tool_calls)).encode()
                    except Refusal as refusal:
                        return f"{what}: {refusal}"
                    if whole[: len(prompt)] != prompt:
                        return f"{what} changes the tokens of earlier turns"
                    end = len(whole) - len(suffix)
                    if end < len(prompt) or whole[end:] != suffix:
                        return f"{what} is rendered differently at the end of a longer conversation"
                    prompt = whole
        return None

    # -- the template

    def _render(self, messages: list[dict[str, Any]], tools: list[Any] | None, *, generate: bool = True) -> str:
        try:
            return self._template.render(messages, tools=tools, generate=generate)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise Refusal(Kind.INVALID, f"the model's chat template refuses these messages: {error}") from None

    def _renders(self, messages: Sequence[Message]) -> bool:
        try:
            self._render(template_messages(messages), None)
        except Refusal:
            return False
        return True

    def _find_prelude(self) -> list[Message]:
        """The shortest beginning that the template accepts. With a system text of ours it does not fall back to a long
        default one.
        """
        for prelude in ([_SYSTEM, _USER], [_USER]):
            if self._renders([*prelude, _ANSWER, _USER]):
                return prelude
        raise ValueError("the chat template renders no conversation of a user, an assistant and a user again")

    def _close_after_answer(self) -> str:
        text = self._render(template_messages([*self._prelude, _ANSWER, _USER]), None)
        if text.count(_MARK) != 1:
            raise ValueError("the chat template does not render an assistant's text unchanged")
        close = self.tokens.control_pattern.match(text, text.index(_MARK) + len(_MARK))
        if close is None:
            raise ValueError("the chat template does not close an assistant turn with a control token of the tokenizer")
        return close[0]

    def _close_position(self, text: str) -> int:
        """Where the assistant turn that holds the mark is closed: the first stop token behind it."""
        start = text.find(_MARK)
        found = [position for stop in self._stops if (position := text.find(stop, start)) >= 0]
        if start < 0 or not found:
            raise Refusal(
                Kind.INVALID, "the model's chat template does not close an assistant turn before these messages"
            )
        return min(found)

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


_PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "tool",
        "description": "Look at a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


def _parameters(tool: dict[str, Any]) -> dict[str, Any]:
    parameters = tool["function"].get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def load_codec(model_folder: Path, tool_parser: str) -> ChatCodec:
    """The codec of a Hugging Face model folder (``tokenizer.json``, ``tokenizer_config.json``,
    ``chat_template.jinja``).

    Raises ``UserError`` naming the file: when one is missing or unreadable, when ``tool_parser`` is unknown, and when
    the chat template is not append-only, because then no suffix can extend tokens that the model has sampled.
    """
    parser = PARSERS.get(tool_parser)
    if parser is None:
        raise UserError(f"tool_parser: {tool_parser!r} is unknown; use one of {', '.join(sorted(PARSERS))}")
    tokenizer_path = model_folder / "tokenizer.json"
    try:
        tokens = Tokens(tokenizer_path)
        config = _read_json(model_folder / "tokenizer_config.json")
        generation = _read_json(model_folder / "generation_config.json")
        source = _template_source(model_folder, config)
    except OSError as error:
        raise UserError(
            f"{error.filename or tokenizer_path}: {error.strerror}; a model folder needs this file"
        ) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    names = {name: text for name in _TOKEN_NAMES if (text := _token_text(config.get(name)))}
    try:
        template = ChatTemplate(source, names=names)
        codec = ChatCodec(tokens, template, parser, stop_tokens=_stop_tokens(tokens, names, generation))
    except (ValueError, jinja2.TemplateSyntaxError) as error:
        raise UserError(f"{model_folder}: {error}") from None
    why = codec.why_not_append_only()
    if why is not None:
        raise UserError(
            f"{model_folder}: the chat template is not append-only ({why}), so tokens that the model sampled could not "
            "be kept; use a template that only ever adds text at the end"
        )
    return codec


_TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _template_source(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text()
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("tool_use", named.get("default"))
    if not isinstance(source, str):
        raise ValueError(f"{folder}: no chat_template.jinja, and no chat_template in tokenizer_config.json")
    return source


def _token_text(value: Any) -> str:
    """A special token in ``tokenizer_config.json`` is text or an AddedToken object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _stop_tokens(tokens: Tokens, names: dict[str, str], generation: dict[str, Any]) -> list[str]:
    ids = generation.get("eos_token_id", [])
    wanted = set(ids if isinstance(ids, list) else [ids])
    found = [text for text, token_id in tokens.control.items() if token_id in wanted]
    eos = names.get("eos_token")
    return found if eos is None or eos in found else [*found, eos]
