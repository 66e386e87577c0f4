"""How trajectories are sampled: the engines that a spec may choose."""

from typing import Annotated, Any, Literal

from pydantic import Field

from runtime.config.base import FLAG, Count
from runtime.config.rollout import ServedRollout, TorchRollout

FlagName = Annotated[str, Field(pattern=FLAG, max_length=80)]
FlagValue = bool | int | float | str | list[bool | int | float | str] | dict[str, Any] | None


class VllmRollout(ServedRollout):
    """vLLM on GPUs."""

    version: Literal["0.24.0", "0.32.0"] = "0.24.0"
    """Whose flags ``flags`` may name. 0.24.0 is the one that installs beside verl 0.9.1; training with another is
    refused."""
    tensor_parallel_size: Count = 1
    """GPUs per replica."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    """Share of a GPU's memory that vLLM takes."""
    enforce_eager: bool = False
    """No CUDA graphs."""
    release_memory: bool = True
    """Give weights and caches up while the trainer works on the same GPUs; false is quicker where both fit."""
    expert_parallel: bool = False
    """Spread the experts of a mixture over a replica's GPUs instead of cutting each."""
    max_batched_tokens: Count = 8192
    """Tokens that one pass of a replica processes."""
    flags: dict[FlagName, FlagValue] = Field(default_factory=dict)
    """More arguments of ``vllm serve`` by their real names without the leading dashes, for example
    ``kv-cache-dtype``; checked against the catalogue of vLLM's flags."""


Rollout = Annotated[TorchRollout | VllmRollout, Field(discriminator="type")]
