"""What policy one of vLLM's worker processes really holds, as numbers that the sender can work out too.

Reads the tensors where they lie: fused, padded, and with tensor parallelism cut over several processes. Knows nothing
of verl. Upstream: ``vllm/model_executor/layers/linear.py``, ``vllm/lora/layers/``, 0.24.0.
"""

from __future__ import annotations

from typing import Any

import torch

from runtime.rollouter.fingerprint import RowFingerprint


def parameters_value(model: torch.nn.Module, *, dtype: torch.dtype) -> int | None:
    """This process's share of the model's fingerprint: shares of all ranks add up to the whole. None where a layer is
    cut in a way that is not known here; every rank says so then. All ranks of a replica must call this together."""
    from vllm.distributed.parallel_state import get_tp_group
    from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    group = get_tp_group()
    rank, found, seen = group.rank_in_group, RowFingerprint(dtype), set[int]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:  # a tied embedding
                continue
            seen.add(id(parameter))
            if group.world_size == 1:
                found.add(parameter)
            elif isinstance(module, QKVParallelLinear):
                found.add(_without_copies(module, parameter, rank))
            elif isinstance(module, ColumnParallelLinear | VocabParallelEmbedding):
                found.add(parameter)
            elif isinstance(module, RowParallelLinear) and name == "weight":
                numbers = found.rows(parameter, first_column=rank * parameter.shape[-1])
                torch.distributed.all_reduce(numbers, group=group.device_group)
                if rank == 0:
                    found.add_rows(numbers)
            elif not isinstance(module, RowParallelLinear) and _may_be_cut(module):
                return None
            elif rank == 0:
                found.add(parameter)
    return found.value()


def adapter_value(lora_manager: Any, adapter: int, *, dtype: torch.dtype) -> int:
    """The same of a LoRA adapter where the kernels read it. Of whole adapters: not with tensor parallelism."""
    manager = lora_manager._adapter_manager
    slot = manager.lora_index_to_id.index(adapter)
    found = RowFingerprint(dtype)
    for module in {id(one): one for one in manager.modules.values()}.values():
        for stacked in (*module.lora_a_stacked, *module.lora_b_stacked):
            found.add(stacked[slot])
    return found.value()


def _without_copies(module: Any, parameter: torch.Tensor, rank: int) -> torch.Tensor:
    """With more ranks than key and value heads several ranks hold the same head: the first of them counts it."""
    if rank % module.num_kv_head_replicas == 0:
        return parameter
    return parameter[: module.num_heads * module.head_size]


def _may_be_cut(module: Any) -> bool:
    """Norms and replicated layers are the same on every rank; of what else has a loader of its own nobody knows."""
    from vllm.model_executor.layers.linear import ReplicatedLinear

    if isinstance(module, ReplicatedLinear) or type(module).__name__.endswith("Norm"):
        return False
    return any(hasattr(parameter, "weight_loader") for parameter in module.parameters(recurse=False))
