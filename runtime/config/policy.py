"""The language model that is trained: a new small one, or an existing one."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import PARQUET, Count, LearningRate, Model, NonNegative, Share, Text
from runtime.config.demonstrations import MadeDemonstrations
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


class DemonstrationFile(Model):
    """Demonstrations that were made before (``liverl tasks demonstrate``): token ids in the form in which the scaffold
    asks, and which of them the policy is to write."""

    type: Literal["parquet"] = "parquet"
    path: Annotated[str, Field(pattern=PARQUET, max_length=4096)]
    """Absolute, or relative to the folder where ``liverl run`` is called."""


class EarlierTrials(Model):
    """Solved trials of an earlier run, or of ``liverl infer``, with the tokens that were sampled then (rejection
    sampling). Trials of validation tasks are never taken."""

    type: Literal["trials"] = "trials"
    run: Text
    """The run's folder; absolute, or relative to the folder where ``liverl run`` is called. Its policy must have the
    tokenizer of this one."""
    per_task: Count = 4
    """Most trials of one task, the shortest first: tasks that are always solved would drown the others."""


Demonstrations = Annotated[MadeDemonstrations | DemonstrationFile | EarlierTrials, Field(discriminator="type")]


class SupervisedStage(Model):
    """What is learnt before reinforcement, for how long and in which portions; how, ``sft.yaml`` tells verl."""

    demonstrations: Annotated[tuple[Demonstrations, ...], Field(min_length=1)]
    """Of no package and no task that is held out for validation: those are refused."""
    epochs: Count = 1
    """Times that every demonstration is seen. More than two have overfitted: groups of trials come out alike."""
    steps: Count | None = None
    """Optimizer steps, through as many epochs as that takes; null: ``epochs`` says it."""
    tokens_per_batch: Count = 131072
    """Tokens per optimizer step, of all ranks together; less where the demonstrations are fewer."""
    tokens_per_pass: Count = 16384
    """Tokens per forward and backward pass of a rank: what demonstrations are packed to."""
    max_length: Count | None = None
    """Longer demonstrations are left out, in tokens; null: those that no trial could be as long as."""
    compile: bool = False
    """Compile the model's layers (``torch.compile``): half a minute first, then more tokens per second."""


class PretrainedPolicy(Model):
    """An existing model."""

    type: Literal["pretrained"] = "pretrained"
    path: Text
    """Hugging Face model folder or name."""
    warm_start: SupervisedStage | None = None
    """null: reinforcement begins with the model as it is."""


Policy = Annotated[NewPolicy | PretrainedPolicy, Field(discriminator="type")]
