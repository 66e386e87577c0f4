"""Matrices split over two ranks as vLLM splits them add up to what was sent; what nobody can compare is named.

vLLM's classes are stood in for by their names and attributes: its real engine is asked in ``test_vllm.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.torch

HIDDEN, WIDTH, EXPERTS, RANK = 6, 8, 4, 3


class Ranks:
    """Two ranks of one group, one after the other: rank 0 last, with what rank 1 brought to each sum."""

    def __init__(self) -> None:
        self.rank_in_group, self.world_size, self.device_group = 0, 2, None
        self._brought: list[Any] = []

    def all_reduce(self, numbers: Any, group: object = None) -> None:
        if self.rank_in_group == 1:
            self._brought.append(numbers.clone())
        else:
            numbers += self._brought.pop(0)

    def values(self, of: Callable[[int], int | str]) -> list[int | str]:
        found = []
        for rank in (1, 0):
            self.rank_in_group = rank
            found.append(of(rank))
        assert not self._brought
        return found


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    import torch

    group = Ranks()
    names = {
        "linear": ["ColumnParallelLinear", "RowParallelLinear", "ReplicatedLinear"],
        "vocab_parallel_embedding": ["VocabParallelEmbedding"],
        "fused_moe.routed_experts": ["RoutedExperts"],
    }
    for place, classes in names.items():
        module: Any = ModuleType(f"vllm.model_executor.layers.{place}")
        for name in classes:
            setattr(module, name, type(name, (torch.nn.Module,), {}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    linear: Any = sys.modules["vllm.model_executor.layers.linear"]
    linear.QKVParallelLinear = type("QKVParallelLinear", (linear.ColumnParallelLinear,), {})
    state: Any = ModuleType("vllm.distributed.parallel_state")
    state.get_tp_group = lambda: group
    for name in ("vllm", "vllm.model_executor", "vllm.model_executor.layers", "vllm.distributed"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.model_executor.layers.fused_moe", ModuleType("fused_moe"))
    monkeypatch.setitem(sys.modules, state.__name__, state)
    monkeypatch.setattr(torch.distributed, "all_reduce", group.all_reduce)
    yield group


def layer(kind: str, place: str = "linear", **tensors: Any) -> Any:
    import torch

    made = getattr(sys.modules[f"vllm.model_executor.layers.{place}"], kind)()
    for name, tensor in tensors.items():
        made.register_parameter(name, torch.nn.Parameter(tensor))
    return made


def sent(tensors: Sequence[Any]) -> str:
    import torch

    from runtime.rollouter.fingerprint import RowFingerprint, combined

    found = RowFingerprint(torch.bfloat16)
    for tensor in tensors:
        found.add(tensor)
    return combined([found.value()])


@pytest.mark.parametrize("by_experts", [False, True])
def test_experts_are_cut_by_their_width_or_dealt_out(ranks: Ranks, by_experts: bool) -> None:
    import torch

    from runtime.rollouter.fingerprint import combined
    from runtime.trainer.cuda.served import parameters_value

    gate, up = torch.randn(2, EXPERTS, WIDTH, HIDDEN)
    down = torch.randn(EXPERTS, HIDDEN, WIDTH)

    def share(rank: int) -> int | str:
        experts = slice(rank * 2, rank * 2 + 2) if by_experts else slice(None)
        width = slice(None) if by_experts else slice(rank * WIDTH // 2, (rank + 1) * WIDTH // 2)
        made = layer(
            "RoutedExperts",
            "fused_moe.routed_experts",
            w13_weight=torch.cat([gate[experts, width], up[experts, width]], dim=1),
            w2_weight=down[experts, :, width].contiguous(),
        )
        made.use_ep = by_experts
        return parameters_value(torch.nn.Sequential(made), dtype=torch.bfloat16)

    wanted = sent([one for tensors in (gate, up, down) for one in tensors])
    assert combined(ranks.values(share)) == wanted  # type: ignore[arg-type]
    down[1, 0, 0] += 1
    assert combined(ranks.values(share)) != wanted  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", ["columns", "rows", "shared heads", "shared heads in one"])
def test_an_adapter_is_cut_where_its_layer_is(ranks: Ranks, cut: str) -> None:
    import torch

    from runtime.rollouter.fingerprint import combined
    from runtime.trainer.cuda.served import adapter_value

    padded, heads = RANK + 2, 2  # vLLM's greatest rank; queries of two heads, keys and values of one, two wide each
    firsts = [torch.randn(RANK, HIDDEN) for _ in range(3 if cut == "shared heads" else 1)]
    seconds = [torch.randn(2 * heads, RANK), torch.randn(2, RANK), torch.randn(2, RANK)]

    def stacked(tensor: Any) -> Any:
        place = torch.zeros(1, 1, max(tensor.shape[0], padded), max(tensor.shape[1], RANK), dtype=torch.bfloat16)
        place[0, 0, : tensor.shape[0], : tensor.shape[1]] = tensor
        return place

    def share(rank: int) -> int | str:
        first, second = list(firsts), [seconds[0]]
        half = slice(rank * heads, (rank + 1) * heads)
        if cut == "rows":
            base = layer("RowParallelLinear")
            first = [firsts[0][:, rank * HIDDEN // 2 : (rank + 1) * HIDDEN // 2]]
        elif cut == "columns":
            base, second = layer("ColumnParallelLinear"), [seconds[0][half]]
        else:
            base = layer("QKVParallelLinear")
            base.num_heads, base.head_size, base.num_kv_head_replicas = 1, 2, 2
            second = [seconds[0][half], *seconds[1:]]
            if cut != "shared heads":
                second = [torch.cat(second)]
        module = SimpleNamespace(
            base_layer=base,
            lora_config=SimpleNamespace(fully_sharded_loras=False),
            lora_a_stacked=tuple(map(stacked, first)),
            lora_b_stacked=tuple(one[None, None].to(torch.bfloat16) for one in second),
        )
        untouched = SimpleNamespace(base_layer=None, lora_b_stacked=torch.zeros(1, 1, 2, RANK))
        manager = SimpleNamespace(lora_index_to_id=[5], modules={"layer": module, "again": module, "head": untouched})
        return adapter_value(SimpleNamespace(_adapter_manager=manager), 5, dtype=torch.bfloat16)

    whole = [*firsts, *(seconds if cut.startswith("shared") else seconds[:1])]
    assert combined(ranks.values(share)) == sent(whole)  # type: ignore[arg-type]


def test_what_nobody_can_compare_is_named(ranks: Ranks) -> None:
    import torch

    from runtime.trainer.cuda.served import adapter_value, parameters_value

    strange = torch.nn.Linear(2, 2)
    strange.weight.weight_loader = print  # type: ignore[assignment]
    found = ranks.values(lambda rank: parameters_value(torch.nn.ModuleDict({"mixer": strange}), dtype=torch.bfloat16))
    assert all("mixer (Linear) is cut over GPUs in a way of its own" in str(one) for one in found)
    experts = SimpleNamespace(base_layer=strange, w13_lora_b_stacked=(torch.ones(1, 1, 2, RANK),))
    manager = SimpleNamespace(lora_index_to_id=[5], modules={"experts": experts})
    found = ranks.values(lambda rank: adapter_value(SimpleNamespace(_adapter_manager=manager), 5, dtype=torch.bfloat16))
    assert all("experts (SimpleNamespace)" in str(one) for one in found)
