"""A checkpoint of adapters alone, brought into the form in which peft, vLLM and ``liverl eval`` read adapters.

verl (0.9.1, ``checkpoint.save_lora_only``) saves each rank's share as pickled tensors. Imports torch where it reads
them; knows nothing of training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from runtime.config import PretrainedPolicy, load_runtime_config
from runtime.errors import UserError
from runtime.models import adapters
from runtime.run_paths import RunPaths

_files: dict[Path, dict[str, str]] = {}
"""Digests of the base, which does not change while a trainer runs."""


def complete(actor: Path) -> None:
    """Called when verl has written ``actor/``: where it holds adapters alone, ``actor/huggingface/`` gets them too."""
    meta, folder = actor / adapters.META, actor / "huggingface"
    if not meta.is_file() or any(folder.glob("*.safetensors")):
        return
    paths = RunPaths.of_process()
    model = paths.policy.resolve()
    if model not in _files:
        _files[model] = adapters.weight_files(model)
    policy = load_runtime_config(paths.runtime_json).policy
    # After a supervised stage the base is the run's own, and no model of that name.
    base = f"the policy that run {paths.path.name} began with"
    if isinstance(policy, PretrainedPolicy) and not model.is_relative_to(paths.path.resolve()):
        base = policy.path
    adapters.write(_tensors(actor), meta, folder, base=base, files=_files[model])


def check_base(checkpoint: Path, policy: Path) -> None:
    """Raise ``UserError`` where a run would go on from an adapter that was trained on another model."""
    folder = checkpoint / "actor" / "huggingface"
    if adapters.alone(folder) and not adapters.belongs(folder, policy):
        base, files = adapters.base_of(folder)
        shown = ", ".join(f"{name} {sha256[:12]}" for name, sha256 in files.items())
        raise UserError(
            f"{policy}: holds other weights than the model that the adapter of {checkpoint.name} was trained on "
            f"({base}: {shown}); bring that model here"
        )


def _tensors(actor: Path) -> dict[str, Any]:
    """Whole tensors by verl's names, of all ranks' shares."""
    import torch
    from torch.distributed.tensor import DTensor, Shard

    def share(rank: int) -> dict[str, Any]:
        file = actor / f"model_world_size_{ranks}_rank_{rank}.pt"
        loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
        return loaded

    ranks = int(orjson.loads((actor / "fsdp_config.json").read_bytes())["world_size"])
    first = share(0)
    mesh = next((one.device_mesh.mesh for one in first.values() if isinstance(one, DTensor)), None)
    # Of several dimensions the last one cuts tensors; along the others they are the same.
    owners = [0] if mesh is None else mesh.reshape(-1, mesh.shape[-1])[0].tolist()
    shares = [first, *(share(rank) for rank in owners[1:])]
    whole = {}
    for name, tensor in first.items():
        if not isinstance(tensor, DTensor):
            whole[name] = tensor
            continue
        (placement,) = tensor.placements[-1:]
        parts = [one[name].to_local() for one in shares]
        whole[name] = torch.cat(parts, dim=placement.dim) if isinstance(placement, Shard) else parts[0]
    return {name: tensor.detach().float() for name, tensor in whole.items()}
