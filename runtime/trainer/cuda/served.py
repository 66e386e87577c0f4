"""What policy one of vLLM's worker processes really holds, as numbers that the sender can work out too.

Reads the tensors where they lie: fused, padded, and with tensor parallelism cut over several processes. Knows nothing
of verl. Upstream: ``vllm/model_executor/layers/linear.py``, ``vllm/lora/layers/``, 0.24.0.
"""

from __future__ import annotations

from typing import Any

import torch

from runtime.rollouter.fingerprint import RowFingerprint


def parameters_value(model: torch.nn.Module, *, dtype: torch.dtype) -> int | str:
    """This process's share of the model's fingerprint: shares of all ranks add up to the whole. In words where a layer
    is cut in a way that is not known here; every rank says so then. All ranks of a replica must call this together."""
    from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
    from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    found, seen = _Share(dtype), set[int]()
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:  # a tied embedding
                continue
            seen.add(id(parameter))
            if found.ranks == 1 or (isinstance(module, RoutedExperts) and module.use_ep):
                found.rows.add(parameter)
            elif isinstance(module, QKVParallelLinear):
                found.rows.add(_without_copies(module, parameter, found.rank))
            elif isinstance(module, ColumnParallelLinear | VocabParallelEmbedding) or (
                isinstance(module, RoutedExperts) and name.startswith("w13")
            ):
                found.rows.add(parameter)
            elif (isinstance(module, RowParallelLinear) and name == "weight") or name == "w2_weight":
                found.add_columns(parameter)
            elif not isinstance(module, RowParallelLinear | RoutedExperts) and _may_be_cut(module):
                return _unknown(place, module)
            else:
                found.add_once(parameter)
    return found.rows.value()


def adapter_value(lora_manager: Any, adapter: int, *, dtype: torch.dtype) -> int | str:
    """The same of a LoRA adapter where the kernels read it: its first matrix is whole on every rank where the layer is
    cut by columns, its second one where the layer is cut by rows."""
    from vllm.model_executor.layers.linear import ColumnParallelLinear, ReplicatedLinear, RowParallelLinear

    manager = lora_manager._adapter_manager
    slot = manager.lora_index_to_id.index(adapter)
    found, seen = _Share(dtype), set[int]()
    for place, module in manager.modules.items():
        if id(module) in seen:
            continue
        seen.add(id(module))
        layer = getattr(module, "base_layer", None)
        if not isinstance(layer, ColumnParallelLinear | RowParallelLinear | ReplicatedLinear):
            if _adapted(module, slot):
                return _unknown(place, module)
            continue
        if found.ranks > 1 and module.lora_config.fully_sharded_loras:
            return _unknown(place, module)
        firsts, seconds = ([one[slot] for one in own] for own in (module.lora_a_stacked, module.lora_b_stacked))
        for first in firsts:
            if found.ranks > 1 and isinstance(layer, RowParallelLinear):
                found.add_columns(first)
            else:
                found.add_once(first)
        for number, second in enumerate(seconds):
            if found.ranks > 1 and isinstance(layer, ColumnParallelLinear):
                found.rows.add(_own_part(layer, second[0], found.rank, of=len(seconds), number=number))
            else:
                found.add_once(second)
    return found.rows.value()


class _Share:
    """What this rank brings to a fingerprint."""

    def __init__(self, dtype: torch.dtype) -> None:
        from vllm.distributed.parallel_state import get_tp_group

        self._group = get_tp_group()
        self.rank, self.ranks = self._group.rank_in_group, self._group.world_size
        self.rows = RowFingerprint(dtype)

    def add_once(self, tensor: torch.Tensor) -> None:
        """What every rank has whole."""
        if self.rank == 0:
            self.rows.add(tensor)

    def add_columns(self, tensor: torch.Tensor) -> None:
        """What is cut by its last dimension."""
        numbers = self.rows.rows(tensor, first_column=self.rank * tensor.shape[-1])
        torch.distributed.all_reduce(numbers, group=self._group.device_group)
        if self.rank == 0:
            self.rows.add_rows(numbers)


def _without_copies(module: Any, parameter: torch.Tensor, rank: int) -> torch.Tensor:
    """With more ranks than key and value heads several ranks hold the same head: the first of them counts it."""
    if rank % module.num_kv_head_replicas == 0:
        return parameter
    return parameter[: module.num_heads * module.head_size]


def _own_part(layer: Any, second: torch.Tensor, rank: int, *, of: int, number: int) -> torch.Tensor:
    """The same of an adapter's second matrix, which is one for queries, keys and values, or one for each."""
    from vllm.model_executor.layers.linear import QKVParallelLinear

    if not isinstance(layer, QKVParallelLinear):
        return second
    if of == 1:
        return _without_copies(layer, second, rank)
    return second if number == 0 or rank % layer.num_kv_head_replicas == 0 else second[:0]


def _adapted(module: Any, slot: int) -> bool:
    """Whether an adapter changes this layer at all."""
    stacks = [value for name, value in vars(module).items() if "lora_b" in name and name.endswith("_stacked")]
    flat = [tensor for stack in stacks for tensor in (stack if isinstance(stack, tuple | list) else (stack,))]
    return any(bool(tensor[slot].any()) for tensor in flat)


def _may_be_cut(module: Any) -> bool:
    """Norms and replicated layers are the same on every rank; of what else has a loader of its own nobody knows."""
    from vllm.model_executor.layers.linear import ReplicatedLinear

    if isinstance(module, ReplicatedLinear) or type(module).__name__.endswith("Norm"):
        return False
    return any(hasattr(parameter, "weight_loader") for parameter in module.parameters(recurse=False))


def _unknown(place: str, module: Any) -> str:
    return f"weights that nobody can compare: {place} ({type(module).__name__}) is cut over GPUs in a way of its own"
