"""The patches verl 0.9.1 needs on a machine without an accelerator, each with its reason; nothing else is changed.

They replace attributes of loaded modules and no file of verl. A newer verl that makes one unnecessary lets it go.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch

from runtime.config import load_runtime_config
from runtime.run_paths import RunPaths


def before_verl_workers() -> None:
    """``torch.distributed.fsdp.CPUOffloadPolicy``: verl's reference model asks for pinned memory, which needs an
    accelerator.

    ``verl/workers/engine/fsdp/transformer_impl.py`` imports the class by name, so this must run before any
    ``verl.workers`` import.
    """
    import torch.distributed.fsdp as fsdp

    original = fsdp.CPUOffloadPolicy
    if getattr(original, "_liverl", False):
        return

    class UnpinnedCPUOffloadPolicy(original):  # type: ignore[misc,valid-type]
        _liverl = True

        def __init__(self, pin_memory: bool = False) -> None:
            del pin_memory
            super().__init__(pin_memory=False)

    fsdp.CPUOffloadPolicy = UnpinnedCPUOffloadPolicy  # type: ignore[misc]


def after_verl_import() -> None:
    """``initialize_global_process_group_ray`` and ``load_valuehead_model``, see below."""
    import verl.utils.distributed as distributed
    import verl.utils.model as model

    distributed.initialize_global_process_group_ray = init_gloo_process_group
    model.load_valuehead_model = load_value_model


def init_gloo_process_group(timeout_second: float | None = None, backend: str | None = None) -> None:
    """verl composes the backend ``cpu:gloo,cpu:gloo`` (``utils/distributed.py``), which torch refuses: plain gloo
    instead. Every process that trains comes here before it makes a model: what that begins with at random (an adapter,
    a critic's head) follows from the run's seed, which verl gives to data and rollouts alone."""
    del backend
    if torch.distributed.is_initialized():
        return
    torch.manual_seed(load_runtime_config(RunPaths.of_process().runtime_json).seed)
    torch.distributed.init_process_group(
        backend="gloo",
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        timeout=timedelta(seconds=timeout_second) if timeout_second is not None else None,
        init_method=os.environ.get("DIST_INIT_METHOD"),
    )


def load_value_model(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
    """verl's critic loader (``utils/model.py``) insists on flash_attention_2: the same head with torch's own
    attention."""
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(
        local_path,
        dtype=torch_dtype,
        config=model_config,
        attn_implementation="sdpa",
        trust_remote_code=trust_remote_code,
    )
