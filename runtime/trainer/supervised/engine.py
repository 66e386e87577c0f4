"""verl's FSDP engine for packs: it tells the model where demonstrations begin and which tokens count, and says how long
a step took.

Takes the place of ``FSDPEngineWithLMHead`` (``verl/workers/engine/fsdp/transformer_impl.py``, 0.9.1) in the processes
of the supervised stage alone (``plugin``).
"""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from verl.utils.device import get_device_id
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from runtime.trainer.supervised.bounds import bounds_of
from runtime.trainer.supervised.process import COMPILE
from runtime.trainer.supervised.scored import scored_forward


class PackEngine(FSDPEngineWithLMHead):  # type: ignore[misc]
    def _build_module(self) -> Any:
        module = super()._build_module()
        if not hasattr(module, "lm_head"):
            raise RuntimeError(f"{type(module).__name__} has no lm_head: not a language model that is known here")
        module.forward = scored_forward(module)
        if os.environ.get(COMPILE):
            for layer in module.model.layers:
                layer.compile()
        return module

    def train_batch(self, data: Any, loss_function: Any) -> Any:
        begun = time.monotonic()
        out = super().train_batch(data, loss_function)
        ended = time.monotonic()
        # From the end of the last step: what loading the data takes is part of it.
        out["metrics"]["timing_s/step"] = ended - getattr(self, "_ended", begun)
        out["metrics"]["timing_s/update"] = ended - begun
        self._ended = ended
        return out

    def forward_step(self, micro_batch: Any, loss_function: Any, forward_only: bool) -> Any:
        """The pack is looked at where it lies, in the host's memory: asking the GPU would wait for it."""
        mask = micro_batch["loss_mask"].values()
        bounds, longest = bounds_of(micro_batch["position_ids"].values(), padding=self._get_packed_pad_size(len(mask)))
        self._pack = {
            "pack_bounds": bounds.to(get_device_id(), non_blocking=True),
            "pack_longest": longest,
            "scored": torch.roll(mask, -1).nonzero()[:, 0].to(get_device_id(), non_blocking=True),
        }
        return super().forward_step(micro_batch, loss_function, forward_only)

    def prepare_model_inputs(self, micro_batch: Any) -> Any:
        inputs, outputs = super().prepare_model_inputs(micro_batch)
        return {**inputs, **self._pack}, outputs
