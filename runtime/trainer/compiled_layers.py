"""verl's FSDP engine with the model's layers compiled by torch, each for itself.

verl's ``model.external_lib`` imports this module where ``trainer.compile`` of the spec asks for it; it takes the place
of ``FSDPEngineWithLMHead`` (``verl/workers/engine/fsdp/transformer_impl.py``, 0.9.1), whose own ``use_torch_compile``
compiles the entropy alone. Where sequences begin is counted before a layer asks: a layer that waited for the GPU to
say it would fall apart into pieces.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from verl.utils.device import get_device_id
from verl.workers.engine import base
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from runtime.trainer.cuda import varlen
from runtime.trainer.supervised.bounds import bounds_of


def layers_of(module: nn.Module) -> nn.ModuleList:
    """The blocks of a language model: its longest list of modules. Raises ``ValueError`` where it has none."""
    lists = [one for one in module.modules() if isinstance(one, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(module).__name__} has no list of layers: set trainer.compile to false")
    return max(lists, key=len)


class CompiledLayers(FSDPEngineWithLMHead):  # type: ignore[misc]
    _bounds: dict[str, Any]

    def _build_module(self) -> Any:
        module = super()._build_module()
        assert module.config.get_text_config()._attn_implementation == varlen.NAME and not self.use_ulysses_sp
        for layer in layers_of(module):
            layer.compile()
        getattr(module, module.base_model_prefix).register_forward_pre_hook(self._with_bounds, with_kwargs=True)
        return module

    def _with_bounds(self, _module: Any, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**inputs, **self._bounds}

    def forward_step(self, micro_batch: Any, loss_function: Any, forward_only: bool) -> Any:
        """Looked at before it goes to the GPU, where an answer would be waited for."""
        positions = micro_batch["position_ids"].values()
        bounds, longest = bounds_of(positions, padding=self._get_packed_pad_size(len(positions)))
        self._bounds = {"pack_bounds": bounds.to(get_device_id(), non_blocking=True), "pack_longest": longest}
        return super().forward_step(micro_batch, loss_function, forward_only)


for backend in ("fsdp", "fsdp2"):
    # verl's registry refuses a second engine of one name.
    base.EngineRegistry._engines["language_model"][backend]["cuda"] = CompiledLayers
