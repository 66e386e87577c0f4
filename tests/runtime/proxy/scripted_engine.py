"""An engine that plays scripted replies: it samples their text in random, mostly non-canonical token splits and
remembers every call.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.proxy.codec import ChatCodec
from runtime.proxy.types import Sample
from runtime.rollouter.engine import Generation, Routing, SamplingParams


@dataclass
class Call:
    """One call as the engine saw it, and what it gave back."""

    prompt_ids: list[int]
    params: SamplingParams
    session: str
    generation: Generation | None = None


Script = Callable[[Call], Any]


@dataclass
class ScriptedEngine:
    """``script`` maps a call to the reply's text, a ready ``Generation``, or an exception to raise; it may be a
    coroutine function.

    Every sampled token gets a log-probability of its own, so that a test can find each one again.
    """

    codec: ChatCodec
    script: Script | Sequence[Any] = ()
    seed: int = 0
    version: int = 0
    calls: list[Call] = field(default_factory=list)
    cancelled: int = 0
    closed: bool = False
    _sampled: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._queue = None if callable(self.script) else list(self.script)

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        call = Call(list(prompt_ids), params, session)
        self.calls.append(call)
        try:
            answer = self._queue.pop(0) if self._queue is not None else self.script(call)  # type: ignore[operator]
            if asyncio.iscoroutine(answer):
                answer = await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(answer, Exception):
            raise answer
        call.generation = answer if isinstance(answer, Generation) else self.reply(answer, params)
        return call.generation

    async def close(self) -> None:
        self.closed = True

    def reply(self, text: str, params: SamplingParams) -> Generation:
        ids = [*self.split(text), self.codec.stop_token_ids[0]]
        reason = "stop" if len(ids) <= params.max_tokens else "length"
        return self.generation(ids[: params.max_tokens], reason)

    def generation(self, ids: list[int], reason: Any = "stop") -> Generation:
        logprobs = [-(self._sampled + index + 1) / 1024 for index in range(len(ids))]
        self._sampled += len(ids)
        return Generation(ids, logprobs, [self.version] * len(ids), reason)

    def split_around_control(self, text: str) -> list[int]:
        """As ``split``, but what spells a control token is that token."""
        tokens, ids, position = self.codec.tokens, [], 0
        for control in tokens.control_pattern.finditer(text):
            ids += [*self.split(text[position : control.start()]), tokens.control[control[0]]]
            position = control.end()
        return ids + self.split(text[position:])

    def split(self, text: str) -> list[int]:
        """``text`` as tokens, cut at random places before encoding, so that encoding it again gives other ids."""
        ids: list[int] = []
        while text:
            cut = self._random.randint(1, 6)
            ids += self.codec.tokens.encode(text[:cut])
            text = text[cut:]
        return ids


def rows(ids: Sequence[int]) -> bytes:
    """Rows of shape (1, 2) that tell token and position."""
    return bytes(byte for position, token in enumerate(ids) for byte in (token % 251, position % 251))


@dataclass
class MixtureEngine(ScriptedEngine):
    """As vLLM gives routed experts: all but the last token have rows; ``delta`` leaves out what the caller has."""

    delta: bool = True
    wrong: int = 0
    starts: list[int] = field(default_factory=list)

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        generation = await super().generate(prompt_ids, params, session=session)
        start = params.routing_start if self.delta else 0
        self.starts.append(params.routing_start)
        fed = [*prompt_ids, *generation.token_ids][: -1 - self.wrong]
        generation = replace(generation, routing=Routing(0, rows(fed), (1, 2), 1).since(start))
        self.calls[-1].generation = generation
        return generation


def aligned(sample: Sample) -> bool:
    """Every token has its own row; the last one, never fed to the model, has zeros."""
    ids = sample.prompt_ids + sample.response_ids
    routing = sample.routed_experts
    assert routing is not None
    return (routing.start, routing.rows) == (0, rows(ids[:-1]) + bytes(2))
