"""Sessions that are answered by somebody's chat API: any OpenAI-compatible server, of which nobody has tokens.

For measuring and comparing alone: what comes of it are turns with texts and the server's own counts of tokens, never
samples to train. Agents speak any wire API of the proxy; the server is asked for chat completions. Source of the wire
form: https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from runtime.config import Proxy as ProxyConfig
from runtime.errors import TrialError
from runtime.proxy.base_session import BaseSession, turn_of
from runtime.proxy.chat import ChatRequest, Reply
from runtime.proxy.chat_endpoint import Answer, ChatEndpoint, RequestRefused
from runtime.proxy.forest import AttachPoint, Node
from runtime.proxy.journal import Journal
from runtime.proxy.messages import Message, message_key
from runtime.proxy.refusal import ContextOverflow, Kind, Refusal
from runtime.proxy.samples import ambiguous_nodes, auxiliary_nodes, discarded_nodes
from runtime.proxy.server import SessionServer
from runtime.proxy.types import SessionLimits, Trajectory
from runtime.proxy.unread import announced


class RelayServer(SessionServer):
    """The same surface for agents as ``ProxyServer``."""

    def __init__(self, config: ProxyConfig, endpoint: ChatEndpoint, *, journal: Path | None = None) -> None:
        super().__init__(config, journal=journal)
        self._endpoint = endpoint

    def _new(self, session_id: str, limits: SessionLimits) -> RelaySession:
        return RelaySession(
            session_id,
            limits,
            endpoint=self._endpoint,
            journal=self._journal,
            probe_tokens=self._config.side_call_tokens,
        )

    def _ended(self, session_id: str) -> None:
        """The endpoint keeps nothing of a session."""


class RelaySession(BaseSession):
    """Of the limits, those in tokens hold as far as the server says how many it counted: ``max_tokens_per_turn`` is
    asked for, ``response_length`` ends a conversation that has grown by so much since its first prompt, and
    ``prompt_length`` is not applied, since the server's own context decides.
    """

    def __init__(
        self,
        session_id: str,
        limits: SessionLimits,
        *,
        endpoint: ChatEndpoint,
        journal: Journal | None,
        probe_tokens: int,
    ) -> None:
        super().__init__(session_id, limits, journal=journal)
        self._endpoint = endpoint
        self._probe_tokens = probe_tokens
        self._counted: list[tuple[int, int]] = []
        """Of each turn, the tokens of prompt and reply that the server counted; 0 where it says nothing."""
        self._started = 0
        self._unread = 0

    async def _complete(self, request: ChatRequest) -> Reply:
        started = time.monotonic()
        point = self._forest.attach(request)
        messages = _normalised(request)
        if not messages or messages[-1].role == "assistant":
            raise Refusal(Kind.INVALID, "the last message must not be the assistant's", param="messages")
        max_tokens = self._budget(point, request)
        number, self._started = self._started, self._started + 1
        if self._journal is not None:
            self._journal.asked(self.id, number, prompt_tokens=0)
        began = time.monotonic()
        try:
            answer = await self._ask(request, messages, max_tokens, number)
        except BaseException:
            if self._journal is not None:
                self._journal.dropped(self.id, number, lost_tokens=0)
            raise
        finished = time.monotonic()
        parsed = answer.parsed
        if parsed.unread:
            self._unread += len(parsed.unread)
            # A cut reply says so itself.
            parsed = parsed if answer.cut else announced(parsed)
        node = self._node(request, point, replace(answer, parsed=parsed))
        self._clocked(node, started=started, began=began, finished=finished)
        if self._journal is not None:
            self._journal.turn(self.id, node, request=number)
        self._forest.add(node)
        self._counted.append((answer.prompt_tokens, answer.completion_tokens))
        self.failure = None
        if request.tools:
            self.overlong = False
        counts = (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
        return self._reply(request, node, complete=not answer.cut, counts=counts)

    async def _count(self, request: ChatRequest) -> int:
        """A guess, since only the server has its tokenizer: four bytes of text a token."""
        messages = _normalised(request)
        texts = [part for message in messages for part in (message.content, *(c.arguments for c in message.tool_calls))]
        return sum(len(text.encode(errors="replace")) for text in texts) // 4 + len(orjson.dumps(request.tools)) // 4

    def trajectory(self) -> Trajectory:
        """Turns alone: there are no tokens to train."""
        forest = self._forest
        auxiliary, discarded = auxiliary_nodes(forest), discarded_nodes(forest)
        turns = tuple(
            replace(
                turn_of(node),
                prompt_tokens=counted[0],
                completion_tokens=counted[1],
                discarded=node.seq in discarded,
                kind="auxiliary" if node.seq in auxiliary else "policy",
            )
            for node, counted in zip(forest.nodes, self._counted, strict=True)
        )
        policy = [turn for turn in turns if turn.kind == "policy"]
        return Trajectory(
            session_id=self.id,
            turns=turns,
            num_turns=len(policy),
            prompt_tokens=sum(turn.prompt_tokens for turn in turns),
            completion_tokens=sum(turn.completion_tokens for turn in turns),
            tool_sec=sum(turn.gap_sec or 0.0 for turn in policy),
            model_sec=sum(turn.generate_sec for turn in turns),
            ambiguous=len(ambiguous_nodes(forest) - auxiliary),
            unread=self._unread,
            overlong=self.overlong,
            failure=self.failure,
        )

    def _budget(self, point: AttachPoint, request: ChatRequest) -> int:
        """Tokens this reply may have. Raises ``ContextOverflow``."""
        wanted = self.limits.max_tokens_per_turn
        if request.max_tokens is not None:
            wanted = min(wanted, request.max_tokens)
        if point.node is None:
            return wanted
        first, so_far = self._counted[point.node.path()[0].seq][0], sum(self._counted[point.node.seq])
        room = self.limits.response_length - (so_far - first)
        if room <= 0:
            self.overlong = True
            raise ContextOverflow(tokens=so_far + 1, limit=first + self.limits.response_length)
        return min(wanted, room)

    async def _ask(self, request: ChatRequest, messages: Sequence[Message], max_tokens: int, number: int) -> Answer:
        limits = self.limits
        body: dict[str, Any] = {"messages": _wire(messages), "max_tokens": max_tokens}
        body |= {"temperature": limits.temperature, "top_p": limits.top_p}
        if limits.top_k > 0:
            body["top_k"] = limits.top_k
        if limits.seed is not None:
            digest = hashlib.blake2b(f"{limits.seed}.{number}".encode(), digest_size=8).digest()
            body["seed"] = int.from_bytes(digest) >> 33  # some servers take 32 bits alone
        if request.tools and request.parse_tools:
            body["tools"] = list(request.tools)
        if request.stop:
            body["stop"] = list(request.stop)
        try:
            return await self._endpoint.ask(body)
        except RequestRefused as refused:
            if refused.overflow:
                self.overlong = True
                raise Refusal(Kind.OVERFLOW, str(refused), param="messages") from None
            self.failure = str(refused)
            raise Refusal(Kind.INVALID, str(refused)) from None
        except TrialError as error:
            self.failure = str(error)
            raise Refusal(Kind.UNAVAILABLE, f"the model is not available: {error}") from error

    def _node(self, request: ChatRequest, point: AttachPoint, answer: Answer) -> Node:
        parsed, wire = answer.parsed, request.wire[point.position :]
        reply = Message("assistant", parsed.content, parsed.tool_calls, None, parsed.reasoning)
        # Which requests were the same is told by what they added: in place of tokens, a digest of it.
        digest = hashlib.blake2b(orjson.dumps([request.head, wire], default=str), digest_size=16).digest()
        root = point.node is None
        return Node(
            seq=len(self._forest.nodes),
            reply_id=f"{self.id}-{len(self._forest.nodes)}",
            parent=point.node,
            head=request.head,
            dialect=request.dialect,
            normalise=request.normalise,
            wire=wire,
            parsed=parsed,
            reply_key=message_key(reply),
            context_ids=array("i", digest),
            sampled_ids=array("i"),
            logprobs=array("d"),
            weight_versions=array("q"),
            prompt_length=0,
            path_length=0,
            closed=not answer.cut,
            trainable=False,
            has_tools=bool(request.tools),
            side_call=not request.tools and request.max_tokens is not None and request.max_tokens <= self._probe_tokens,
            finish_reason="length" if answer.cut else "stop",
            finished_sec=0.0,
            cached_tokens=answer.cached_tokens,
            system="\n\n".join(message.content for message in request.system) if root else "",
            tools=request.tools if root else (),
        )


def _normalised(request: ChatRequest) -> list[Message]:
    return [*request.system, *(message for sent in request.wire for message in request.normalise(sent))]


def _wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """OpenAI's form. A call without an id, and its answer, get one."""
    wire: list[dict[str, Any]] = []
    open_calls: list[str] = []
    for message in messages:
        if message.role == "assistant":
            open_calls = [call.id or f"call_{len(wire)}_{place}" for place, call in enumerate(message.tool_calls)]
            entry: dict[str, Any] = {"role": "assistant", "content": message.content or None}
            if message.tool_calls:
                entry["tool_calls"] = [
                    {"id": name, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                    for name, call in zip(open_calls, message.tool_calls, strict=True)
                ]
            elif not message.content:
                entry["content"] = ""
            wire.append(entry)
        elif message.role == "tool":
            named = message.tool_call_id or (open_calls[0] if open_calls else "call_0")
            open_calls = [name for name in open_calls if name != named]
            wire.append({"role": "tool", "tool_call_id": named, "content": message.content})
        else:
            wire.append({"role": message.role, "content": message.content})
    return wire
