"""The engine that computes gradients: its hardware, parallelism, memory and optimizer (verl's ``model_engine``)."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import Count, Decay, LearningRate, Model, NonNegative, Positive, Whole

Gpu = Literal["A10G", "A100", "A100-80GB", "B200", "H100", "H200", "L4", "L40S"]


class Optimizer(Model):
    """AdamW."""

    learning_rate: LearningRate
    schedule: Literal["constant", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    warmup_steps: Whole = 0
    """Steps with a rising learning rate."""
    weight_decay: NonNegative = 0.01
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    grad_clip: Positive = 1.0
    """Largest gradient norm."""


class Offload(Model):
    """What waits in the host's memory while the GPU does something else."""

    parameters: bool = False
    optimizer: bool = False
    """AdamW's state."""


class _Engine(Model):
    nodes: Count = 1
    """Machines that train."""
    ranks_per_node: Count = 1
    """Training processes per machine (GPUs, or CPU processes)."""
    gpu: Gpu | None = None
    """The kind of GPU, in SkyPilot's names; null: the compiler cannot check memory."""
    optimizer: Optimizer
    micro_batch_size: Count
    """Sequences per forward and backward pass of a rank."""
    max_tokens_per_rank: Count | None = None
    """Pack micro-batches up to this many tokens of one rank instead of counting sequences; null: count."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of keeping them."""
    offload: Offload = Offload.model_construct()


PACKED_ATTENTION = ("varlen", "flash_attention_2", "flash_attention_3")
"""What takes sequences without padding."""


class Fsdp(_Engine):
    """PyTorch FSDP; ``fsdp2`` is the one that runs on a CPU."""

    type: Literal["fsdp", "fsdp2"]
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    """Of the forward and backward pass; weights and reductions stay fp32."""
    attention: Literal["sdpa", "eager", "varlen", "flash_attention_2"]
    """Attention implementation of transformers. On GPUs ``varlen`` and ``flash_attention_2`` pack sequences, the first
    by torch's own kernels, the second by a package that has to be compiled."""
    share_prefixes: bool = False
    """What trajectories of a micro-batch begin with alike (branches of one session, siblings of a group) goes through
    the model once; ``max_tokens_per_rank`` then counts it once. Needs attention ``varlen``; GRPO's kin, no critic."""
    compile: bool = False
    """Compile the policy's layers (torch): seconds at the first steps, less time and memory in each. Needs attention
    ``varlen`` on a GPU. A critic is not compiled."""
    sequence_parallel: Count = 1
    """Ranks that share one sequence (Ulysses); divides the attention heads."""
    shard_size: Count | None = None
    """Ranks that share one copy of the model; the rest are replicas. null: all ranks."""


class VeOmni(_Engine):
    """VeOmni: FSDP2 with expert parallelism, for large mixtures of experts."""

    type: Literal["veomni"]
    device: Literal["cuda"] = "cuda"
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the forward and backward pass; weights and reductions stay fp32."""
    attention: Literal["flash_attention_2", "flash_attention_3", "sdpa", "eager"] = "flash_attention_2"
    sequence_parallel: Count = 1
    """Ranks that share one sequence (Ulysses); divides the attention heads."""
    expert_parallel: Count = 1
    """Ranks that share the experts of a layer; divides their number."""
    shard_size: Count | None = None
    """Ranks that share one copy of the model; the rest are replicas. null: all ranks."""


class Megatron(_Engine):
    """Megatron-Core: tensor, pipeline, context and expert parallelism, for the largest models."""

    type: Literal["megatron"]
    device: Literal["cuda"] = "cuda"
    precision: Literal["bf16"] = "bf16"
    """Of the forward and backward pass; the optimizer keeps fp32 weights."""
    tensor_parallel: Count = 1
    """Ranks that share every matrix; divides the attention heads."""
    pipeline_parallel: Count = 1
    """Stages of layers."""
    virtual_pipeline: Count | None = None
    """Slices of layers per stage, interleaved; null: one."""
    context_parallel: Count = 1
    """Ranks that share one sequence."""
    expert_parallel: Count = 1
    """Ranks that share the experts of a layer; divides their number."""
    expert_tensor_parallel: Count | None = None
    """Ranks that share the matrices of one expert; null: like ``tensor_parallel``."""
    sequence_parallel: bool = True
    """Share the activations between tensor-parallel ranks too; without effect where ``tensor_parallel`` is 1."""


Trainer = Annotated[Fsdp | VeOmni | Megatron, Field(discriminator="type")]
