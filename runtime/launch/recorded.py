"""An engine that says again what a policy said in a recorded trial: the same tokens, with the same log-probabilities.

A reply belongs to the prompt that it was given to; where no recorded prompt is like the one that is asked for, the next
reply of the recording is given, and the difference is noted. Knows a trial as ``read_trial`` gives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from runtime.errors import Termination, TrialError
from runtime.proxy.call_text import call_text
from runtime.proxy.codec import ChatCodec
from runtime.proxy.messages import ToolCall
from runtime.report.trial import TrialView, TurnView
from runtime.rollouter.engine import Engine, Generation, SamplingParams
from runtime.scaffolds.base import Rehearsal


class RecordedReplies:
    """Implements ``Engine``. After ``until`` replies (None: after all of them) ``reached`` is set and a further request
    waits for ``go_on``; then ``policy`` answers, or without one the rest of the recording."""

    def __init__(
        self, view: TrialView, codec: ChatCodec, *, until: int | None = None, policy: Engine | None = None
    ) -> None:
        self._view, self._codec, self._policy = view, codec, policy
        self._left = list(view.turns)
        self._until = len(view.turns) if until is None else until
        self.served = 0
        self.differences: list[str] = []
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        if self.served >= self._until:
            self.reached.set()
            await self.go_on.wait()
            if self._policy is not None:
                return await self._policy.generate(prompt_ids, params, session=session)
        turn = self._next(list(prompt_ids))
        self.served += 1
        return self._reply(turn, params)

    async def close(self) -> None:
        """The policy is its owner's."""

    def _next(self, prompt: list[int]) -> TurnView:
        if not self._left:
            raise TrialError(Termination.MODEL_UNAVAILABLE, "the recording has no further reply", host_fault=True)
        for turn in self._left:
            if self._prompt(turn) == prompt:
                self._left.remove(turn)
                return turn
        turn = self._left.pop(0)
        recorded = self._prompt(turn)
        if recorded is not None:
            same = next(
                (n for n, (a, b) in enumerate(zip(recorded, prompt, strict=False)) if a != b),
                min(len(recorded), len(prompt)),
            )
            text = self._codec.tokens.decode(prompt[same : same + 40])
            self.differences.append(
                f"turn {turn.seq}: its prompt of {len(prompt)} tokens is not the recorded one ({len(recorded)}) from"
                f" token {same} on: {text!r}"
            )
        return turn

    def _prompt(self, turn: TurnView) -> list[int] | None:
        """The tokens that the turn was the answer to; None where the recording does not have them."""
        if turn.span is None:
            return None
        sample = self._view.samples[turn.span.sample]
        return [*sample.prompt_ids, *sample.response_ids[: turn.span.start]]

    def _reply(self, turn: TurnView, params: SamplingParams) -> Generation:
        if turn.span is not None:
            sample, own = self._view.samples[turn.span.sample], slice(turn.span.start, turn.span.end)
            ids, logprobs = list(sample.response_ids[own]), list(sample.response_logprobs[own])
            versions = list(sample.weight_versions[own])
        else:
            ids = [*self._codec.tokens.encode(self._text(turn)), self._codec.stop_token_ids[0]]
            logprobs, versions = [0.0] * len(ids), [0] * len(ids)
        reason = "stop" if ids and ids[-1] in self._codec.stop_token_ids else "length"
        cut = params.max_tokens
        return Generation(ids[:cut], logprobs[:cut], versions[:cut], reason if len(ids) <= cut else "length")  # type: ignore[arg-type]

    def _text(self, turn: TurnView) -> str:
        """A reply whose tokens were not kept, because nothing was trained on it, written anew."""
        rehearsal = Rehearsal(tools=self._offered(turn))
        calls = []
        for use in turn.tools:
            given = ToolCall(use.id, use.name, use.arguments).parsed()
            arguments = given if isinstance(given, dict) else {}
            calls.append(call_text(self._codec, rehearsal.tools, use.name, arguments) or "")
        return turn.text + "".join(calls)

    def _offered(self, turn: TurnView) -> list[dict[str, object]]:
        first = self._view.path_to(turn.seq)
        return [dict(tool) for tool in (first[0].offered if first else ())]
