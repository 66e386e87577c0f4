"""The language model that is trained: a new small one, or an existing Hugging Face model."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import Count, Decay, LearningRate, Model, NonNegative, Positive, Share, Text, ToolCalls, Whole
from runtime.config.policy import NewPolicy
from runtime.config.policy import PretrainedPolicy as Existing
from runtime.config.policy import SupervisedStage as Gathered


class ModelFacts(Model):
    """Sizes of an existing model, as its config.json states them."""

    num_layers: Annotated[int, Field(ge=1, le=1024)]
    hidden_size: Count
    intermediate_size: Count
    """Width of a dense layer's MLP."""
    num_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    vocabulary_size: Count
    max_position: Count
    """Longest sequence in tokens."""
    tied_embeddings: bool = False
    """The output layer shares the embedding's weights."""
    num_experts: Count | None = None
    """Experts of a layer; null: a dense model."""
    experts_per_token: Count | None = None
    expert_intermediate_size: Count | None = None
    """Width of one expert's MLP."""
    tool_calls: ToolCalls | Literal["other"] | None = None
    """How the model's chat template writes tool calls; null: unknown."""


ONE_ADAPTER = (
    "a run trains one: verl 0.9.1 makes, updates and sends the adapter `default` alone, and its vLLM serves one under "
    "a fixed id"
)
"""``workers/engine/fsdp/transformer_impl.py:1001``, ``workers/rollout/vllm_rollout/utils.py:40``."""
APART = "start a run for each adapter, on the same policy.path"


class Lora(Model):
    """Train low-rank additions instead of the weights; checkpoints hold them alone (FSDP)."""

    rank: Annotated[int, Field(ge=1, le=512)] = 32
    alpha: Count = 32
    target_modules: Text | tuple[Text, ...] = "all-linear"
    """Names of the layers that get one, as ``q_proj``, or ``all-linear``."""
    merge: bool = False
    """Send merged weights, which verl rounds to bf16, to the rollout instead of the adapter."""


class SupervisedStage(Gathered):
    """Supervised training on demonstrations before reinforcement, by verl's SFT trainer: all weights, by the trainer's
    device and precision. Demonstrations are packed without padding and never see each other."""

    learning_rate: LearningRate = 1e-4
    schedule: Literal["constant", "cosine"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup: Share = 0.03
    """Share of the steps with a rising learning rate."""
    final_learning_rate: Share = 0.1
    """Where the cosine ends, as a share of ``learning_rate``."""
    weight_decay: NonNegative = 0.01
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    grad_clip: Positive = 1.0
    """Largest gradient norm."""
    save_every: Whole = 0
    """Steps between checkpoints, from which a stage that was killed goes on; 0: only the last."""
    gradient_checkpointing: bool | None = None
    """Recompute activations instead of keeping them; null: as the trainer does. Off is faster, where they fit."""


class PretrainedPolicy(Existing):
    """An existing model."""

    warm_start: SupervisedStage | None = None
    """null: reinforcement begins with the model as it is."""
    facts: ModelFacts | None = None
    """Sizes, for checks of parallelism and memory; null: taken from the compiler's table where it knows ``path``."""
    lora: Lora | None = None
    """null: all weights are trained."""
    max_position: Count | None = None
    """Longest sequence in tokens, if the compiler shall check lengths against another limit than the model's own."""


Policy = Annotated[NewPolicy | PretrainedPolicy, Field(discriminator="type")]
