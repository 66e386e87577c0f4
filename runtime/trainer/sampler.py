"""verl's replay buffers without their 2-second poll: the trainer wakes when a group has been published.

Selected by ``trainer.v1.sampler.custom_sampler``. What is sampled, and when, stays verl's. Upstream:
``verl/trainer/ppo/v1/replay_buffer.py`` (poll_interval 2.0 is not in the YAML), 0.9.1.
"""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from runtime.trainer.wakeup import published

_FALLBACK_SEC = 0.25
"""Poll interval when nobody announces groups (another agent loop manager, or another process)."""


class PromptReplayBuffer(ReplayBuffer):  # type: ignore[misc]
    """Synchronous sampling (trainer mode ``sync``)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "poll_interval": _FALLBACK_SEC})

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        published.wait(self.poll_interval)
        return last_debug_time


class PromptReplayBufferAsync(ReplayBufferAsync):  # type: ignore[misc]
    """Asynchronous sampling (``colocate_async``, ``separate_async``)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "poll_interval": _FALLBACK_SEC})

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        published.wait(self.poll_interval)
        return last_debug_time
