"""The external verl module of the supervised stage (``VERL_USE_EXTERNAL_MODULES``): puts the engine for
packs in the place of verl's own, and lets the ranks meet. Loaded in no other process.
"""

from __future__ import annotations

import os

import torch
from verl.utils import distributed
from verl.utils.device import get_device_name, get_nccl_backend, get_torch_device
from verl.workers.engine import base

from runtime.trainer.supervised import engine

for backend in ("fsdp", "fsdp2"):
    # verl's registry refuses a second engine of one name.
    base.EngineRegistry._engines["language_model"][backend]["cuda"] = engine.PackEngine


def join() -> tuple[int, int, int]:
    """verl asks for an address and a port, and composes ``cpu:gloo,cpu:gloo`` on a CPU, which torch refuses
    (``utils/distributed.py``): here the ranks meet in a file."""
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = get_device_name()
    get_torch_device().set_device(local)
    torch.distributed.init_process_group(
        backend="gloo" if device == "cpu" else f"cpu:gloo,{device}:{get_nccl_backend()}",
        init_method=os.environ["DIST_INIT_METHOD"],
        rank=rank,
        world_size=world,
    )
    return local, rank, world


distributed.initialize_global_process_group = join
