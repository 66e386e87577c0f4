"""Plain data that crosses the edge of the proxy: limits of a session going in, turns, samples and trajectory coming
out.

Knows nothing of HTTP, tokenizers or how a trajectory was recorded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import orjson

from runtime.rollouter.engine import Routing


@dataclass(frozen=True)
class SessionLimits:
    """What one session may do, in tokens, and how it samples. The agent's own sampling parameters are never applied.

    ``prompt_length`` bounds the first prompt of a conversation, ``response_length`` everything after it (observations
    included); ``max_tokens_per_turn`` bounds one reply. Temperature 0 is greedy. ``seed`` makes every reply of the
    session repeatable. ``context_length`` bounds prompt and reply together where the engine has such a bound.
    """

    prompt_length: int
    response_length: int
    max_tokens_per_turn: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    context_length: int | None = None


@dataclass(frozen=True)
class Turn:
    """One committed reply. Times are seconds; ``started_sec`` counts from the opening of the session, ``gap_sec`` is
    how long the agent took between the previous reply of its conversation and this request (None for a first turn).
    ``messages`` are the wire messages that this request added; ``kind`` is ``auxiliary`` for side calls (titles,
    quota probes) that are never trained; ``delivery`` is unknown when the agent was gone before it had the whole reply.
    ``system`` (where the API keeps it outside of the messages) and ``tools`` are those of a conversation's first turn.
    """

    seq: int
    parent: int | None
    dialect: str
    kind: str
    messages: tuple[Any, ...]
    text: str
    tool_calls: tuple[dict[str, str], ...]
    parse_status: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    weight_versions: tuple[int, int] | None
    started_sec: float
    generate_sec: float
    gap_sec: float | None
    discarded: bool = False
    delivery: Literal["sent", "unknown"] = "sent"
    system: str = ""
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Sample:
    """One root-to-leaf conversation as the trainer needs it.

    The last four have equal length. Mask 1 marks a token that the policy sampled and that this sample trains; elsewhere
    the log-probability is 0 and the weight version -1.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    response_logprobs: list[float]
    weight_versions: list[int]
    routed_experts: Routing | None = None
    """One row per token of prompt and response, the last one zero; None where the engine gave none."""

    def record(self) -> dict[str, list[int] | list[float]]:
        """A sample of ``trajectory.json``: without routed experts, which are several times as large as the rest."""
        return {
            "prompt_ids": self.prompt_ids,
            "response_ids": self.response_ids,
            "response_mask": self.response_mask,
            "response_logprobs": self.response_logprobs,
            "weight_versions": self.weight_versions,
        }


@dataclass(frozen=True)
class Accounting:
    """Where every sampled token went: trained + discarded + auxiliary + lost = sampled.

    Discarded: a reply that the agent asked for again and did not continue. Lost: never delivered, or without usable
    log-probabilities.
    """

    sampled: int = 0
    trained: int = 0
    discarded: int = 0
    auxiliary: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Trajectory:
    """Everything one session did. ``overlong``: a token budget ran out and no later call with tools
    succeeded. ``failure``: the engine failed and no later call succeeded.

    ``num_turns`` counts policy turns; ``prompt_tokens`` sums the prompts of all turns; ``tool_sec`` and ``model_sec``
    are summed seconds of the agent's gaps between turns and of generation; ``ambiguous`` counts replies to one and the
    same prompt of which none was continued (all are trained); ``aborted`` counts generations that were cut
    short (client gone, weight update); ``mismatches`` counts replies of the engine that are malformed or
    whose log-probabilities are unusable; ``unread`` counts texts that were meant for a tool call and
    could not be read as one.
    """

    session_id: str
    turns: tuple[Turn, ...] = ()
    samples: tuple[Sample, ...] = ()
    num_turns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tool_sec: float = 0.0
    model_sec: float = 0.0
    ambiguous: int = 0
    aborted: int = 0
    mismatches: int = 0
    unread: int = 0
    overlong: bool = False
    failure: str | None = None
    accounting: Accounting = field(default_factory=Accounting)

    def to_json(self) -> bytes:
        """The content of ``trajectory.json``."""
        samples = [sample.record() for sample in self.samples]
        return orjson.dumps({**asdict(replace(self, samples=())), "samples": samples})
