"""verl's checkpoint engine ``liverl_ray``: weights pass from trainer to rollout workers through one Ray actor.

Needed by trainer mode ``separate_async``, which refuses the in-process engine; the mode ``sync`` does without.
Upstream: ``verl/checkpoint_engine/base.py``, 0.9.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import ray
import torch
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry

_STORE = "liverl_weight_store"
_POLL_SEC = 0.02


class WeightStore:
    """Keeps the newest version alone."""

    def __init__(self) -> None:
        self._version: int | None = None
        self._state: dict[str, torch.Tensor] | None = None

    def put(self, version: int, state: dict[str, torch.Tensor]) -> None:
        self._version, self._state = version, state

    def get(self, version: int) -> dict[str, torch.Tensor] | None:
        """The state of ``version``, or None while it has not arrived."""
        return self._state if self._version == version else None


def _store() -> Any:
    return ray.remote(WeightStore).options(name=_STORE, num_cpus=0, get_if_exists=True, lifetime="detached").remote()


@CheckpointEngineRegistry.register("liverl_ray")
class RayStoreCheckpointEngine(CheckpointEngine):  # type: ignore[misc]
    """No process group: the store's name is the whole topology."""

    def __init__(self, bucket_size: int = 0, is_master: bool = False, **_ignored: Any) -> None:
        self._is_master = is_master

    def prepare(self) -> dict[str, Any]:
        return {}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        return {"rank": list(range(actor_wg_world_size))}, {"rank": list(range(rollout_world_size))}

    def init_process_group(self, **_kwargs: Any) -> None:
        return None

    def finalize(self) -> None:
        return None

    async def send_weights(
        self, weights: Iterator[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> dict[str, Any]:
        state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights}
        if self._is_master:
            await _store().put.remote(global_steps, state)
        return {}

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        store = _store()
        while (state := await store.get.remote(global_steps)) is None:
            await asyncio.sleep(_POLL_SEC)
        for name, tensor in state.items():
            yield name, tensor
