"""verl's checkpoint engine ``liverl_gloo``: the one of two GPUs, with gloo in NCCL's place, for runs on CPUs."""

from __future__ import annotations

from typing import Any

from torch.distributed import ProcessGroupGloo
from verl.checkpoint_engine import CheckpointEngineRegistry

from runtime.trainer.cuda.checkpoint_engine import TorchCheckpointEngine


@CheckpointEngineRegistry.register("liverl_gloo")
class OverGloo(TorchCheckpointEngine):
    device = "cpu"

    def _host(self) -> str:
        return "127.0.0.1"

    def _backend(self, store: Any, rank: int, size: int) -> Any:
        return ProcessGroupGloo(store, rank, size)
