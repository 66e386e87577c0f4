"""The language model that is trained: a new small one, or an existing Hugging Face model."""

from typing import Annotated, Literal

from pydantic import Field

from compiler.spec.base import Count, LearningRate, Model, NonNegative, Share, Text, ToolCalls
from compiler.spec.tasks import Source


class Architecture(Model):
    """A Qwen2 of random initialisation with a byte-level BPE trained for it."""

    vocabulary_size: Annotated[int, Field(ge=270, le=1 << 20)]
    """Tokens, the 256 bytes and the special tokens included."""
    hidden_size: Count
    intermediate_size: Count
    num_layers: Annotated[int, Field(ge=1, le=1024)]
    num_heads: Count
    """Attention heads; divides ``hidden_size``."""
    num_key_value_heads: Count
    """Divides ``num_heads``."""
    max_position: Count
    """Longest sequence in tokens."""


class WarmStart(Model):
    """The supervised phase before reinforcement."""

    demonstrations: Source
    """Tasks that are demonstrated; reinforcement and validation never see them."""
    steps: Count
    """Optimizer steps."""
    batch_size: Count
    """Demonstrations per step."""
    learning_rate: LearningRate
    informed_fraction: Share
    """Share of demonstrators who read the code where they know the family of the bug; the rest search."""
    informed_families: tuple[str, ...] = ()
    """Families of bugs that demonstrators know how to read; the others are left to reinforcement. Empty: all."""
    observation_loss: NonNegative
    """Weight of the loss on tokens that the model did not write."""


class NewPolicy(Model):
    """A policy made from nothing on the machine that runs the experiment."""

    type: Literal["new"]
    architecture: Architecture
    warm_start: WarmStart


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


class Lora(Model):
    """Train low-rank additions instead of the weights."""

    rank: Annotated[int, Field(ge=1, le=512)] = 32
    alpha: Count = 32
    target_modules: Text | tuple[Text, ...] = "all-linear"
    """Names of the layers that get one, or ``all-linear``."""
    merge: bool = False
    """Send merged weights to the rollout instead of the adapter."""


class PretrainedPolicy(Model):
    """An existing model."""

    type: Literal["pretrained"]
    path: Text
    """Hugging Face model folder or name."""
    facts: ModelFacts | None = None
    """Sizes, for checks of parallelism and memory; null: taken from the compiler's table where it knows ``path``."""
    lora: Lora | None = None
    """null: all weights are trained."""
    max_position: Count | None = None
    """Longest sequence in tokens, if the compiler shall check lengths against another limit than the model's own."""


Policy = Annotated[NewPolicy | PretrainedPolicy, Field(discriminator="type")]
