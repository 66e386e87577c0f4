"""How trajectories are sampled: engine, limits, concurrency; and the HTTP proxy in front of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from compiler.spec.base import FLAG, Count, Model, Text, Whole

FlagName = Annotated[str, Field(pattern=FLAG, max_length=80)]
FlagValue = bool | int | float | str | list[bool | int | float | str] | dict[str, Any] | None


class _Rollout(Model):
    replicas: Count
    """Inference servers behind the balancer."""
    slots: Count
    """Sequences that one replica decodes at once."""
    prompt_length: Count
    """Tokens; a longer first prompt is refused, never cut."""
    response_length: Count
    """Tokens of one trajectory after its first prompt, observations included."""
    max_tokens_per_turn: Count
    """Tokens of one reply."""
    temperature: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = -1
    """-1: all tokens."""
    tool_parser: Literal["compact", "hermes"]
    """How tool calls are written: ``compact`` (small policies) or ``hermes`` (Qwen 2.5 and 3)."""
    concurrency: Count
    """Trials in flight at once."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    """How often one trial may be started when the infrastructure fails it."""


class TorchRollout(_Rollout):
    """LiveRL's own engine for small models on a CPU."""

    type: Literal["torch"]


class VllmRollout(_Rollout):
    """vLLM on GPUs."""

    type: Literal["vllm"]
    version: Literal["0.24.0", "0.32.0"] = "0.24.0"
    """Whose flags ``flags`` may name. 0.24.0 is the one that installs beside verl 0.9.1; training with another is
    refused."""
    tensor_parallel_size: Count = 1
    """GPUs per replica."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    """Share of a GPU's memory that vLLM takes."""
    enforce_eager: bool = False
    """No CUDA graphs."""
    expert_parallel: bool = False
    """Spread the experts of a mixture over a replica's GPUs instead of cutting each."""
    max_batched_tokens: Count = 8192
    """Tokens that one pass of a replica processes."""
    flags: dict[FlagName, FlagValue] = Field(default_factory=dict)
    """More arguments of ``vllm serve`` by their real names without the leading dashes, for example
    ``kv-cache-dtype``; checked against the catalogue of vLLM's flags."""


Rollout = Annotated[TorchRollout | VllmRollout, Field(discriminator="type")]


class Proxy(Model):
    """The HTTP endpoint that agents talk to."""

    host: Text = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: any free port."""
    max_body_mib: Annotated[int, Field(ge=1, le=4096)] = 64
    record_journal: bool = True
    """Keep every turn on disk."""


class Dumps(Model):
    """What is kept of single trials."""

    trials_every: Whole = 1
    """Keep the trial folders of every n-th step; 0: of failed trials only."""
