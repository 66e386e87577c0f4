"""How rollouts and training share time and hardware (verl's ``trainer.v1.trainer_mode``)."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import Count, Model, NonNegative


class Sync(Model):
    """Roll out, then train, then sync weights: on policy."""

    type: Literal["sync"]


class _Async(Model):
    warmup_batches: NonNegative = 1.0
    """Batches that are rolled out before training starts."""
    max_staleness: Count | None = 8
    """Most weight versions that a trajectory may span; null: no limit."""
    stale: Literal["drop", "wait"] = "drop"
    """What happens to a trajectory beyond that: dropped and refilled, or awaited before the next weights."""


class ColocateAsync(_Async):
    """Shared hardware; rollouts are interrupted for an update and go on with new weights (partial rollout)."""

    type: Literal["colocate_async"]


class SeparateAsync(_Async):
    """Rollout and trainer each have hardware of their own and run at the same time; a weight sync interrupts replies,
    which then go on with new weights (partial rollout)."""

    type: Literal["separate_async"]
    sync_every: Count = 1
    """Mini-batches trained between two weight syncs."""
    rollout_nodes: Count = 1
    """Machines of the rollout's own; its replicas are spread over them evenly."""


Mode = Annotated[Sync | ColocateAsync | SeparateAsync, Field(discriminator="type")]
