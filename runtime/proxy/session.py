"""One agent's session: from a chat request to a committed turn, and from all turns to a trajectory.

A request attaches to the forest, its new messages become tokens, the engine samples, and the turn is committed before
any of it reaches the agent. No lock is held while the engine works: attaching and committing are synchronous. Knows
nothing of HTTP or wire shapes.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from array import array
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from runtime.errors import Termination, TrialError
from runtime.proxy.base_session import BaseSession, turn_of
from runtime.proxy.chat import ChatRequest, ParsedReply, Reply
from runtime.proxy.codec import ChatCodec, Rendered
from runtime.proxy.forest import AttachPoint, Node
from runtime.proxy.journal import Journal
from runtime.proxy.messages import Message, message_key
from runtime.proxy.refusal import ContextOverflow, Kind, Refusal
from runtime.proxy.samples import ambiguous_nodes, auxiliary_nodes, discarded_nodes, merge
from runtime.proxy.types import SessionLimits, Trajectory
from runtime.proxy.unread import announced
from runtime.rollouter.engine import Engine, Generation, HoldsCalls, Routing, SamplingParams

Encode = Callable[[Rendered], Coroutine[Any, Any, list[int]]]


PROBE_TOKENS = 16
_MAX_STALLS = 8
"""How often in a row the engine may abort a generation without one new token before the session gives up on it."""


class MalformedGeneration(TrialError):
    """The engine's three lists do not belong together; none of its tokens can be trusted."""

    def __init__(self, message: str) -> None:
        super().__init__(Termination.MODEL_UNAVAILABLE, message)


@dataclass(slots=True)
class _Sampled:
    """What one reply cost and gave, over all resumptions of an aborted generation."""

    ids: list[int]
    logprobs: list[float]
    versions: list[int]
    finish_reason: str = "stop"
    cached_tokens: int = 0
    routing: Routing | None = None


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A request in tokens: where it attaches, what it adds, what the engine gets, and how long the first prompt of its
    path is.
    """

    parent: Node | None
    wire: list[Any]
    context: array[int]
    ids: array[int]
    prompt_length: int

    @property
    def routing_start(self) -> int:
        """Of all tokens before this one the path knows the experts: the parent's last token was never fed back."""
        return 0 if self.parent is None else self.parent.path_length - 1


class Session(BaseSession):
    """A session whose every token is kept as it was sampled."""

    def __init__(
        self,
        session_id: str,
        limits: SessionLimits,
        *,
        codec: ChatCodec,
        engine: Engine,
        encode: Encode,
        journal: Journal | None,
        probe_tokens: int = PROBE_TOKENS,
    ) -> None:
        """``probe_tokens``: a conversation without tools that asks for at most this many tokens is a probe of the agent
        program, not work on the task.
        """
        super().__init__(session_id, limits, journal=journal)
        self._codec = codec
        self._engine = engine
        self._encode = encode
        self._probe_tokens = probe_tokens
        self._started = 0
        self._lost = 0
        self._aborted = 0
        self._mismatches = 0
        self._unread = 0

    async def _count(self, request: ChatRequest) -> int:
        """Exact."""
        return len((await self._prompt(request)).ids)

    async def _complete(self, request: ChatRequest) -> Reply:
        started = time.monotonic()
        prompt = await self._prompt(request)
        max_tokens, room = self._budget(prompt, request)
        began = time.monotonic()
        number, self._started = self._started, self._started + 1
        if self._journal is None:
            sampled = await self._sample(prompt, max_tokens, number)
        else:
            self._journal.asked(self.id, number, prompt_tokens=len(prompt.ids))
            lost = self._lost
            try:
                sampled = await self._sample(prompt, max_tokens, number)
            except BaseException:
                self._journal.dropped(self.id, number, lost_tokens=self._lost - lost)
                raise
        stopped_by = self._cut_at_stop(sampled, request.stop) if request.stop else None
        finished = time.monotonic()
        if self.closing:
            self._lost += len(sampled.ids)
            if self._journal is not None:
                self._journal.dropped(self.id, number, lost_tokens=len(sampled.ids))
            raise Refusal(Kind.CLOSED, f"session {self.id} was closed while the reply was generated")
        complete = sampled.finish_reason == "stop"
        if not complete and len(sampled.ids) >= room:
            self.overlong = True
        elif request.tools:
            # It goes on after a refusal: it compacted its history, or the overlong one was a sub-agent.
            self.overlong = False
        allowed = (*request.tools, *request.found_tools) if request.parse_tools and request.tools else None
        parsed = self._codec.parse(sampled.ids, allowed, complete=complete, stop=request.stop)
        if parsed.unread:
            self._unread += len(parsed.unread)
            # A cut reply says so itself.
            parsed = announced(parsed) if complete else parsed
        node = self._node(request, prompt, sampled, parsed)
        self._clocked(node, started=started, began=began, finished=finished)
        if self._journal is not None:
            self._journal.turn(self.id, node, request=number)
        self._forest.add(node)
        self.failure = None
        return self._reply(
            request,
            node,
            complete=complete,
            counts=(len(prompt.ids), len(sampled.ids), sampled.cached_tokens),
            stopped_by=stopped_by,
        )

    # -- tokens

    async def _prompt(self, request: ChatRequest) -> _Prompt:
        point = self._forest.attach(request)
        wire = request.wire[point.position :]
        new: list[Message] = []
        for sent in wire:
            new.extend(request.normalise(sent))
        if not new or new[-1].role == "assistant":
            raise Refusal(Kind.INVALID, "the last message must not be the assistant's", param="messages")
        if point.node is not None:
            return await self._continuation(point, point.node, wire, new)
        ids = array("i", await self._encode(self._codec.render_first([*request.system, *new], request.tools)))
        # An edited reply right after the first prompt is a branch of the same task: the prompt stays the prompt.
        known = self._forest.known_prompt(ids)
        length = len(ids) if known is None else known
        if any(root.has_tools or not request.tools for root in self._forest.roots):
            # The agent's own words (a summary, an order to a sub-agent) are no task: what a prompt cannot hold of them
            # is spent from the response.
            length = min(length, self.limits.prompt_length)
        return _Prompt(None, wire, ids, ids, length)

    async def _continuation(self, point: AttachPoint, parent: Node, wire: list[Any], new: list[Message]) -> _Prompt:
        rendered = self._codec.render_suffix(new, calls=parent.parsed.tool_calls)
        context = self._codec.extends(parent.sampled_ids, array("i", await self._encode(rendered)))
        return _Prompt(parent, wire, context, parent.extended(context), parent.prompt_length)

    def _budget(self, prompt: _Prompt, request: ChatRequest) -> tuple[int, int]:
        """Tokens this reply may have, and tokens that the conversation has left. Raises ``ContextOverflow``."""
        limits = self.limits
        if prompt.prompt_length > limits.prompt_length:
            self.overlong = True
            raise ContextOverflow(tokens=prompt.prompt_length, limit=limits.prompt_length)
        room = limits.response_length - (len(prompt.ids) - prompt.prompt_length)
        if limits.context_length is not None:
            left = limits.context_length - len(prompt.ids)
            if left <= 0:
                self.overlong = True
                raise ContextOverflow(tokens=len(prompt.ids) + 1, limit=limits.context_length)
            room = min(room, left)
        if room <= 0:
            self.overlong = True
            raise ContextOverflow(tokens=len(prompt.ids) + 1, limit=prompt.prompt_length + limits.response_length)
        wanted = limits.max_tokens_per_turn
        if request.max_tokens is not None:
            wanted = min(wanted, request.max_tokens)
        return min(wanted, room), room

    async def _sample(self, prompt: _Prompt, max_tokens: int, number: int) -> _Sampled:
        """One reply. A generation that the engine aborts (weight update) is resumed from its tokens, within the same
        budget.
        """
        sampled = _Sampled([], [], [])
        stalls = 0
        try:
            while True:
                params = self._params(max_tokens - len(sampled.ids), number, len(sampled.ids))
                so_far = prompt.ids + array("i", sampled.ids) if sampled.ids else prompt.ids
                start = prompt.routing_start if sampled.routing is None else sampled.routing.end
                params = replace(params, routing_start=start)
                generation = await self._engine.generate(so_far, params, session=self.id)
                self._take(sampled, generation, params.max_tokens)
                _take_routing(sampled, generation, start=start, end=len(prompt.ids) + len(sampled.ids) - 1)
                if generation.finish_reason != "abort":
                    return sampled
                self._aborted += 1
                if len(sampled.ids) >= max_tokens:
                    sampled.finish_reason = "length"
                    return sampled
                stalls = 0 if len(generation.token_ids) else stalls + 1
                if stalls > _MAX_STALLS:
                    raise TrialError(Termination.MODEL_UNAVAILABLE, "the engine aborts every attempt at this reply")
                # Without progress the engine is busy (a weight update): wait a little longer each time.
                await asyncio.sleep(0.02 * 2**stalls if stalls else 0)
        except TrialError as error:
            self._lost += len(sampled.ids)
            self._mismatches += isinstance(error, MalformedGeneration)
            self.failure = str(error)
            raise Refusal(Kind.UNAVAILABLE, f"the model is not available: {error}") from error
        except asyncio.CancelledError:
            self._lost += len(sampled.ids)
            self._aborted += 1
            if isinstance(self._engine, HoldsCalls) and (why := self._engine.given_up(self.id)) is not None:
                self.failure = why  # the agent's time ran out for want of an engine
            raise
        except Exception as error:
            # An engine may be anyone's code: whatever it raises is a failure of the model, not of this agent.
            self._lost += len(sampled.ids)
            self.failure = f"{type(error).__name__}: {error}"
            raise Refusal(Kind.UNAVAILABLE, f"the model is not available: {self.failure}") from error

    def _cut_at_stop(self, sampled: _Sampled, stop: tuple[str, ...]) -> str | None:
        """Drop what was sampled after the token that completes a stop text; it counts as lost. Returns that text."""
        decode = self._codec.tokens.decode
        if not any(text in decode(sampled.ids) for text in stop):
            return None
        low, high = 0, len(sampled.ids)  # the shortest beginning that holds a stop text, by bisection
        while low < high:
            middle = (low + high) // 2
            if any(text in decode(sampled.ids[:middle]) for text in stop):
                high = middle
            else:
                low = middle + 1
        self._lost += len(sampled.ids) - low
        dropped = len(sampled.ids) - low
        for values in (sampled.ids, sampled.logprobs, sampled.versions):
            del values[low:]
        if sampled.routing is not None and dropped:
            kept = len(sampled.routing.rows) - dropped * sampled.routing.row_bytes
            sampled.routing = replace(sampled.routing, rows=sampled.routing.rows[:kept])
        sampled.finish_reason = "stop"
        return next(text for text in stop if text in decode(sampled.ids))

    def _params(self, max_tokens: int, number: int, offset: int) -> SamplingParams:
        limits = self.limits
        seed = None
        if limits.seed is not None:
            # One stream of random numbers per reply: the same one for every reply would correlate them.
            digest = hashlib.blake2b(f"{limits.seed}.{number}.{offset}".encode(), digest_size=8).digest()
            seed = int.from_bytes(digest) >> 2
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=limits.temperature,
            top_p=limits.top_p,
            top_k=limits.top_k,
            stop_token_ids=self._codec.stop_token_ids,
            seed=seed,
        )

    @staticmethod
    def _take(sampled: _Sampled, generation: Generation, max_tokens: int) -> None:
        count = len(generation.token_ids)
        if not count == len(generation.logprobs) == len(generation.weight_versions):
            raise MalformedGeneration(
                f"the engine returned {count} tokens, {len(generation.logprobs)} log-probabilities and "
                f"{len(generation.weight_versions)} weight versions"
            )
        if count > max_tokens:
            raise MalformedGeneration(f"the engine returned {count} tokens where {max_tokens} were allowed")
        sampled.ids.extend(generation.token_ids)
        sampled.logprobs.extend(generation.logprobs)
        sampled.versions.extend(generation.weight_versions)
        sampled.finish_reason = generation.finish_reason
        sampled.cached_tokens = max(sampled.cached_tokens, generation.cached_tokens)

    def _node(self, request: ChatRequest, prompt: _Prompt, sampled: _Sampled, parsed: ParsedReply) -> Node:
        trainable = _usable(sampled.logprobs)
        self._mismatches += not trainable
        reply = Message("assistant", parsed.content, parsed.tool_calls, None, parsed.reasoning)
        return Node(
            seq=len(self._forest.nodes),
            reply_id=f"{self.id}-{len(self._forest.nodes)}",
            parent=prompt.parent,
            head=request.head,
            dialect=request.dialect,
            normalise=request.normalise,
            wire=prompt.wire,
            parsed=parsed,
            reply_key=message_key(reply),
            context_ids=prompt.context,
            sampled_ids=array("i", sampled.ids),
            logprobs=array("d", sampled.logprobs if trainable else [0.0] * len(sampled.ids)),
            weight_versions=array("q", sampled.versions),
            prompt_length=prompt.prompt_length,
            path_length=len(prompt.ids) + len(sampled.ids),
            closed=bool(sampled.ids) and sampled.ids[-1] in self._codec.stop_token_ids,
            trainable=trainable,
            has_tools=bool(request.tools),
            side_call=not request.tools and request.max_tokens is not None and request.max_tokens <= self._probe_tokens,
            finish_reason=sampled.finish_reason,
            finished_sec=0.0,
            cached_tokens=sampled.cached_tokens,
            routing=sampled.routing,
            system="\n\n".join(message.content for message in request.system) if prompt.parent is None else "",
            tools=request.tools if prompt.parent is None else (),
        )

    # -- the end

    def trajectory(self) -> Trajectory:
        """Everything committed so far."""
        forest = self._forest
        samples, accounting = merge(forest, lost=self._lost)
        auxiliary, discarded = auxiliary_nodes(forest), discarded_nodes(forest)
        turns = tuple(
            replace(
                turn_of(node), discarded=node.seq in discarded, kind="auxiliary" if node.seq in auxiliary else "policy"
            )
            for node in forest.nodes
        )
        policy = [turn for turn in turns if turn.kind == "policy"]
        ambiguous = ambiguous_nodes(forest) - auxiliary
        return Trajectory(
            session_id=self.id,
            turns=turns,
            samples=samples,
            num_turns=len(policy),
            prompt_tokens=sum(turn.prompt_tokens for turn in turns),
            completion_tokens=sum(turn.completion_tokens for turn in turns),
            tool_sec=sum(turn.gap_sec or 0.0 for turn in policy),
            model_sec=sum(turn.generate_sec for turn in turns),
            ambiguous=len(ambiguous),
            aborted=self._aborted,
            mismatches=self._mismatches,
            unread=self._unread,
            overlong=self.overlong,
            failure=self.failure,
            accounting=accounting,
        )


def _take_routing(sampled: _Sampled, generation: Generation, *, start: int, end: int) -> None:
    """Add the rows of the tokens ``start`` to ``end``; an engine may have given those before as well. Nothing is kept
    where one reply of several had none.
    """
    given = generation.routing
    if given is None:
        if len(generation.token_ids):
            sampled.routing = None
        return
    if given.start > start or given.end != end:
        raise MalformedGeneration(
            f"the engine returned the experts of tokens {given.start} to {given.end} where {start} to {end} were due"
        )
    new = given.since(start)
    sampled.routing = new if sampled.routing is None else replace(sampled.routing, rows=sampled.routing.rows + new.rows)


def _usable(logprobs: list[float]) -> bool:
    """All finite and no sentinel (vLLM reports missing values as -9999). Rounding may lift a sure token above 0."""
    try:
        # Whole-list functions: a Python call per token would be a noticeable part of a turn.
        return not logprobs or (math.isfinite(sum(logprobs)) and min(logprobs) > -9990.0 and max(logprobs) < 1e-3)
    except TypeError:
        return False  # None among them
