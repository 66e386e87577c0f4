"""Where everything above meets inference: token ids in, token ids with log-probabilities and weight versions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable


@dataclass(frozen=True)
class SamplingParams:
    """Temperature 0 means greedy. ``stop_token_ids`` end a reply and are part of it. ``seed`` makes one request
    repeatable."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    routing_start: int = 0
    """The caller has the routing rows of all tokens before this position; an engine may leave them out."""


@dataclass(frozen=True)
class Routing:
    """Which experts a mixture's layers chose (R3, rollout routing replay): one row per token from position ``start`` of
    prompt and reply on.

    ``rows`` are unsigned little-endian integers of ``item_bytes`` bytes, row by row, each row of ``shape`` (layers,
    experts per token). The last sampled token has none: it was never fed to the model.
    """

    start: int
    rows: bytes
    shape: tuple[int, int]
    item_bytes: int

    @property
    def row_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.item_bytes

    @property
    def end(self) -> int:
        """Position behind the last row."""
        return self.start + len(self.rows) // self.row_bytes

    def since(self, start: int) -> Routing:
        """The rows from ``start`` on, which must not lie before the first one."""
        assert start >= self.start
        return Routing(start, self.rows[(start - self.start) * self.row_bytes :], self.shape, self.item_bytes)


@dataclass(frozen=True)
class Generation:
    """One reply. The three lists have equal length; ``logprobs`` are natural logs under the distribution that was
    sampled from (temperature included; for greedy: temperature 1), ``weight_versions`` the policy version that produced
    each token."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    weight_versions: Sequence[int]
    finish_reason: Literal["stop", "length", "abort"]
    cached_tokens: int = 0
    routing: Routing | None = None
    extra: dict[str, object] = field(default_factory=dict)


class Engine(Protocol):
    """A policy that can be sampled. ``session`` is the sticky key: calls of one session go to one replica while it
    lives. ``prompt_ids`` may be any sequence (the proxy gives an ``array``) and must not be changed."""

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        """Raises ``TrialError(MODEL_UNAVAILABLE)`` when no replica can answer."""

    async def close(self) -> None: ...


@runtime_checkable
class KeepsSessions(Protocol):
    """An engine that remembers something for every session, and wants to know when one is over."""

    def end_session(self, session: str) -> None: ...


@runtime_checkable
class HoldsCalls(Protocol):
    """An engine that may hold a call for a while before anything works on it."""

    def given_up(self, session: str) -> str | None:
        """Why a call of the session was still held when its caller gave it up; told once."""


@dataclass(frozen=True)
class WeightIdentity:
    """What a replica really serves: the policy version it was told, and the fingerprint of the tensors it holds."""

    version: int
    fingerprint: str


class Replica(Engine, Protocol):
    """An engine that says what it serves: what a pool holds."""

    async def identity(self) -> WeightIdentity:
        """Raises ``TrialError(MODEL_UNAVAILABLE)`` when the replica is gone."""

    async def abort_all(self) -> int:
        """End every generation in flight with what it has (``finish_reason`` "abort"); how many there were."""


class LocalReplica(Replica, Protocol):
    """A replica of this process, whose weights can be replaced."""

    async def update_weights(self, state: Mapping[str, Any], *, version: int) -> str:
        """Replace every tensor between two steps (name -> tensor, Hugging Face names) and return the new fingerprint.

        Raises ``ValueError`` and keeps the old weights when a tensor is missing, unknown or misshapen."""
