"""verl's FSDP engine with R3: the policy's forward and backward passes take the experts that the rollout chose.

verl 0.9.1 carries ``routed_experts`` to every engine, and replays them in megatron and veomni alone
(``verl/workers/engine_workers.py:498``). Importing this module, as verl's ``model.external_lib``, puts the engine in
the place of ``FSDPEngineWithLMHead`` (``verl/workers/engine/fsdp/transformer_impl.py``); it differs from that one only
where its settings say ``router_replay.mode: R3``, which the reference's do not.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.utils.tensordict_utils import get_non_tensor_data
from verl.utils.ulysses import slice_input_tensor
from verl.workers.engine import base
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from runtime.trainer.cuda import varlen
from runtime.trainer.replayed_experts import ReplayedExperts

__all__ = ["ReplayEngine", "varlen"]
"""``varlen``: attention that packs registers itself where it is imported, and verl imports one module alone."""


class ReplayEngine(FSDPEngineWithLMHead):  # type: ignore[misc]
    _replayed: ReplayedExperts | None = None

    def _build_module(self) -> Any:
        module = super()._build_module()
        if self.engine_config.router_replay.mode == "R3":
            self._replayed = ReplayedExperts(module)
        return module

    def prepare_model_inputs(self, micro_batch: Any) -> Any:
        inputs, outputs = super().prepare_model_inputs(micro_batch)
        if self._replayed is not None:
            self._replayed.arm(self._rows(micro_batch, inputs["input_ids"], outputs.get("pad_size", 0)))
        return inputs, outputs

    def _rows(self, micro_batch: Any, input_ids: torch.Tensor, pad_size: int) -> torch.Tensor:
        """The recorded experts in the order in which the routers see the tokens; zeros for padding."""
        routed = micro_batch.get("routed_experts", None)
        if routed is None:
            raise RuntimeError(
                "routing_replay is R3, but the trajectories came without the experts of their tokens: the engine did "
                "not return them"
            )
        rows, offsets = routed.values(), micro_batch["input_ids"].offsets()
        if not torch.equal(routed.offsets(), offsets):
            raise RuntimeError("trajectories and the experts of their tokens differ in length")
        if not get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True):
            padded = rows.new_zeros((*input_ids.shape, *rows.shape[1:]))
            places = torch.arange(input_ids.shape[1], device=rows.device)
            padded[places < offsets.diff()[:, None].to(places.device)] = rows
            flat: torch.Tensor = padded.flatten(0, 1)
            return flat
        if pad_size:
            rows = torch.cat([rows, rows.new_zeros((pad_size, *rows.shape[1:]))])
        own: torch.Tensor = slice_input_tensor(rows, dim=0, padding=False) if self.use_ulysses_sp else rows
        return own


for _backend in ("fsdp", "fsdp2"):
    # verl's registry refuses a second engine of one name.
    base.EngineRegistry._engines["language_model"][_backend]["cuda"] = ReplayEngine
