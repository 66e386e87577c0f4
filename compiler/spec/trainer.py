"""The engine that computes gradients, its optimizer and its batches on one rank."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compiler.spec.base import Count, LearningRate, Model, NonNegative, Positive, Share, Whole


class Optimizer(Model):
    """AdamW."""

    learning_rate: LearningRate
    schedule: Literal["constant", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    warmup_steps: Whole = 0
    """Steps with a rising learning rate."""
    weight_decay: NonNegative = 0.01
    beta1: Share = 0.9
    beta2: Share = 0.999
    grad_clip: Positive = 1.0
    """Largest gradient norm."""


class Fsdp(Model):
    """PyTorch FSDP; ``fsdp2`` is the one that runs on a CPU."""

    type: Literal["fsdp", "fsdp2"]
    device: Literal["cpu", "cuda"]
    nodes: Count = 1
    """Machines that train."""
    ranks_per_node: Count = 1
    """Training processes per machine (GPUs, or CPU processes)."""
    optimizer: Optimizer
    micro_batch_size: Count
    """Sequences per forward and backward pass of a rank."""
    precision: Literal["fp32", "bf16"]
    """Of the forward and backward pass; weights and reductions stay fp32."""
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    """Attention implementation of transformers."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of keeping them."""


Trainer = Annotated[Fsdp, Field(discriminator="type")]
