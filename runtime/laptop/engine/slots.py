"""Continuous batching over a fixed number of cache slots: admission, prefix reuse, one step for all sequences, abort,
weight switch.

Synchronous and single-threaded: ``torch_engine`` gives it a thread. Knows nothing of sessions beyond their name, nor of
replicas.

Cache rules. A slot's entries belong to (weight version, token prefix). A new request takes over the longest stored
prefix: in place when its own session left it, by copying when another sequence still needs it (members of a group share
a prompt this way, also one that is being computed at this moment). ``set_weights`` drops every entry: sequences in
flight recompute theirs from their tokens under the new weights before they go on, and each token records the version
that produced it.

The experts that a mixture's layers chose for a token belong to the pass that fed it first for this request: a request
in flight over a switch keeps those of its tokens until then, under which the next ones were sampled.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from runtime.errors import Termination, TrialError
from runtime.laptop.engine.forward import Chunk, KVCache, Rotary, forward
from runtime.laptop.engine.sampling import draw
from runtime.laptop.engine.weights import Weights
from runtime.rollouter.engine import Generation, Routing, SamplingParams

# A shared prefix shorter than this is recomputed rather than waited for: waiting costs a step.
_WORTH_WAITING_TOKENS = 16


@dataclass(eq=False)
class Request:
    """One call on its way through the batch. ``on_done`` is called once, from the stepping thread, with the reply or
    the failure."""

    prompt: np.ndarray
    params: SamplingParams
    session: str
    on_done: Callable[[Generation | TrialError], None]
    stream: random.Random
    limit: int
    """Tokens that may be sampled: ``max_tokens``, or less where the slot ends."""
    slot: int = -1
    cached_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    weight_versions: list[int] = field(default_factory=list)
    experts: list[np.ndarray] = field(default_factory=list)
    """Of the leading tokens, by the weights before the present ones; each piece [tokens, layers, K]."""

    def finish(self, reason: Literal["stop", "length", "abort"], routing: Routing | None = None) -> None:
        reply = Generation(self.token_ids, self.logprobs, self.weight_versions, reason, self.cached_tokens, routing)
        self.on_done(reply)


@dataclass
class Counters:
    """Running totals since the start. ``reused_tokens``: prompt tokens whose keys and values were already there."""

    steps: int = 0
    computed_tokens: int = 0
    sampled_tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0


class SlotBatch:
    """At most ``slots`` sequences decode at once; ``kept`` further slots hold prefixes of sessions that are between two
    turns."""

    def __init__(
        self,
        weights: Weights,
        *,
        version: int,
        slots: int,
        max_len: int,
        kept: int,
        prefill_tokens: int,
        seed: int,
        routed: bool = False,
    ) -> None:
        """``routed``: replies of a mixture say which experts were chosen."""
        rows = slots + kept
        self.weights, self.version = weights, version
        self.max_len = max_len
        self.counters = Counters()
        self._slots, self._prefill_tokens = slots, prefill_tokens
        self._cache = KVCache(weights.architecture, slots=rows, length=max_len, experts=routed)
        self._rotary = Rotary(weights.architecture, length=max_len)
        self._tokens = np.zeros((rows, max_len), np.int64)
        self._known = np.zeros(rows, np.int64)  # tokens of the slot's sequence, sampled ones included
        self._computed = np.zeros(
            rows, np.int64
        )  # leading ones whose keys and values are in the cache under this version
        self._families = [(-1, 0)] * rows  # which others begin with the same tokens, and with how many
        self._owner = [""] * rows
        self._used = [0] * rows  # logical time of last use
        self._clock = 0
        self._active: dict[int, Request] = {}
        self._waiting: list[Request] = []
        self._seeds = random.Random(seed)

    @property
    def busy(self) -> bool:
        return bool(self._active or self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._active) + len(self._waiting)

    def make_request(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        session: str,
        on_done: Callable[[Generation | TrialError], None],
    ) -> Request:
        """Check a call. Raises ``ValueError`` on ids or parameters that can never work, ``TrialError(OVERLONG)`` on a
        prompt that leaves no room in a slot."""
        prompt = np.asarray(prompt_ids, np.int64)
        vocabulary = self.weights.architecture.vocabulary_size
        if prompt.ndim != 1 or not len(prompt):
            raise ValueError("prompt_ids: give at least one token id")
        if prompt.min() < 0 or prompt.max() >= vocabulary:
            raise ValueError(f"prompt_ids: ids must lie in [0, {vocabulary}), got {prompt.min()} to {prompt.max()}")
        if params.max_tokens < 1 or params.temperature < 0 or not 0 < params.top_p <= 1:
            raise ValueError(f"{params}: max_tokens >= 1, temperature >= 0 and 0 < top_p <= 1 are needed")
        if len(prompt) >= self.max_len:
            raise TrialError(
                Termination.OVERLONG, f"a prompt of {len(prompt)} tokens leaves no room in a slot of {self.max_len}"
            )
        seed = self._seeds.getrandbits(64) if params.seed is None else params.seed
        limit = min(params.max_tokens, self.max_len - len(prompt))
        return Request(prompt, params, session, on_done, random.Random(seed), limit)

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    def abort(self, requests: Sequence[Request] | None = None) -> int:
        """End these (None: all) with what they have so far, ``finish_reason`` "abort". Returns how many were still in
        flight."""
        chosen = [*self._active.values(), *self._waiting]
        if requests is not None:
            chosen = [request for request in chosen if request in requests]
        for request in chosen:
            self._remove(request)
            request.finish("abort", self._routing(request))
        return len(chosen)

    def fail(self, error: TrialError) -> None:
        """End everything in flight with ``error``."""
        for request in [*self._active.values(), *self._waiting]:
            self._remove(request)
            request.on_done(error)

    def set_weights(self, weights: Weights, *, version: int) -> None:
        """From the next step on, sample from these weights. No cache entry of the old ones is used again."""
        assert weights.architecture == self.weights.architecture
        self.weights, self.version = weights, version
        if self._cache.experts is not None:
            for request in self._active.values():
                self._keep_experts(request)
        self._computed[:] = 0

    def step(self) -> None:
        """One forward pass: admit what fits, compute what is missing, and sample one token for every sequence that is
        complete."""
        self._admit()
        chunks = self._plan()
        if not chunks:
            return
        logits = forward(self.weights, self._cache, self._rotary, chunks)
        counters = self.counters
        counters.steps += 1
        ready: list[int] = []
        for index, chunk in enumerate(chunks):
            counters.computed_tokens += len(chunk.tokens)
            self._computed[chunk.slot] = chunk.end
            if chunk.end == self._known[chunk.slot]:
                ready.append(index)
        if not ready:
            return
        if len(ready) < len(chunks):
            logits = logits[ready]
        requests = [self._active[chunks[index].slot] for index in ready]
        ids, logprobs = draw(
            logits, [request.params for request in requests], [request.stream.random() for request in requests]
        )
        counters.sampled_tokens += len(ids)
        for request, token, logprob in zip(requests, ids, logprobs, strict=True):
            self._append(request, token, logprob)

    def _append(self, request: Request, token: int, logprob: float) -> None:
        if not math.isfinite(logprob):
            self._remove(request)
            # Its keys and values may be as broken as its logits: nobody may inherit them.
            self._computed[request.slot] = 0
            message = f"the policy (weight version {self.version}) gave log-probability {logprob}"
            request.on_done(TrialError(Termination.INTERNAL, message))
            return
        request.token_ids.append(token)
        request.logprobs.append(logprob)
        request.weight_versions.append(self.version)
        slot = request.slot
        if self._known[slot] < self.max_len:
            self._tokens[slot, self._known[slot]] = token
            self._known[slot] += 1
        if token in request.params.stop_token_ids:
            self._remove(request)
            request.finish("stop", self._routing(request))
        elif len(request.token_ids) >= request.limit:
            self._remove(request)
            request.finish("length", self._routing(request))

    def _keep_experts(self, request: Request) -> None:
        """Add to the request's own what the cache holds beyond it."""
        assert self._cache.experts is not None
        begin, end = sum(len(piece) for piece in request.experts), int(self._computed[request.slot])
        if end > begin:
            request.experts.append(self._cache.experts[request.slot, begin:end].numpy().copy())

    def _routing(self, request: Request) -> Routing | None:
        """The experts of all tokens but the last one, which was sampled and never fed, from where the caller wants
        them; None before the first token is sampled."""
        if self._cache.experts is None or not request.token_ids:
            return None
        self._keep_experts(request)
        rows = np.concatenate(request.experts)
        fed = len(request.prompt) + len(request.token_ids) - 1
        assert len(rows) == fed, f"experts of {len(rows)} tokens where {fed} were fed"
        start = min(request.params.routing_start, fed)
        little = rows[start:].astype(rows.dtype.newbyteorder("<"))
        return Routing(start, little.tobytes(), (rows.shape[1], rows.shape[2]), rows.dtype.itemsize)

    def _remove(self, request: Request) -> None:
        if request.slot >= 0:
            self._active.pop(request.slot, None)
        if request in self._waiting:
            self._waiting.remove(request)

    def _plan(self) -> list[Chunk]:
        """What every active sequence feeds in this step. Decode rows always go; prefill shares a budget, so that a long
        prompt cannot hold up the others for longer than one bounded step."""
        budget = self._prefill_tokens
        chunks = []
        for slot in sorted(self._active):
            start, end = int(self._computed[slot]), int(self._known[slot])
            if end - start > 1:
                end = min(end, start + budget)
                if end == start:
                    continue
                budget -= end - start
            chunks.append(Chunk(slot, start, self._tokens[slot, start:end], *self._families[slot]))
        return chunks

    def _admit(self) -> None:
        postponed = []
        for position, request in enumerate(self._waiting):
            if len(self._active) >= self._slots:
                postponed += self._waiting[position:]
                break
            if not self._place(request):
                postponed.append(request)
        self._waiting = postponed

    def _place(self, request: Request) -> bool:
        """Give the request a slot with as much of its prompt as is stored; False when it pays to wait for a prefix
        being computed."""
        prompt = request.prompt
        # The last prompt token is always computed: its logits are needed.
        shared = self._tokens[:, : len(prompt) - 1] == prompt[:-1]
        matching = np.where(shared.all(1), len(prompt) - 1, shared.argmin(1)) if len(prompt) > 1 else self._known * 0
        stored = np.minimum(matching, self._computed)
        source = int(stored.argmax())
        length = int(stored[source])
        coming = max((min(matching[slot], self._known[slot]) for slot in self._active), default=0)
        if coming - length >= _WORTH_WAITING_TOKENS:
            return False
        idle = [slot for slot in range(len(self._owner)) if slot not in self._active]
        if length and source not in self._active and self._owner[source] == request.session:
            target = source
        else:
            # An empty slot first, then the one unused for longest.
            target = min(idle, key=lambda slot: (self._computed[slot] > 0, self._used[slot]))
            if length and target != source:
                self._cache.copy_prefix(source, target, length)
        self._clock += 1
        self._join_family(source, target, length)
        self._used[source] = self._used[target] = self._clock
        self._owner[target] = request.session
        self._tokens[target, : len(prompt)] = prompt
        self._known[target] = len(prompt)
        self._computed[target] = length
        request.slot, request.cached_tokens = target, length
        self._active[target] = request
        self.counters.prompt_tokens += len(prompt)
        self.counters.reused_tokens += length
        return True

    def _join_family(self, source: int, target: int, length: int) -> None:
        """Record that the first ``length`` tokens of ``target`` are those of ``source``."""
        family, shared = self._families[source]
        if target != source and length and family < 0:
            # The clock is new at every placement: a good name.
            family, shared = self._clock, length
            self._families[source] = (family, shared)
        self._families[target] = (family, shared) if length and shared <= length else (-1, 0)
