"""The language model that is trained: a new small one, or an existing one."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import Count, LearningRate, Model, NonNegative, Share, Text
from runtime.config.tasks import Source


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

    type: Literal["new"] = "new"
    architecture: Architecture
    warm_start: WarmStart


class PretrainedPolicy(Model):
    """An existing model."""

    type: Literal["pretrained"] = "pretrained"
    path: Text
    """Hugging Face model folder or name."""


Policy = Annotated[NewPolicy | PretrainedPolicy, Field(discriminator="type")]
