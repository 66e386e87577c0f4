"""Weights on their way from the trainer to an engine: matrices brought to the type that the engine holds, everything
counted and added up to the fingerprint that the engine must have afterwards.

Knows neither verl nor vLLM's processes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import torch

from runtime.rollouter.fingerprint import RowFingerprint

_OUTPUT = "lm_head.weight"


class Sent:
    """``tied``: the output layer is the embedding. ``adapter``: PEFT's settings, where an adapter is sent alone."""

    def __init__(self, dtype: torch.dtype, *, tied: bool, adapter: Mapping[str, Any] | None = None) -> None:
        self.is_adapter = adapter is not None
        self.bytes = 0
        self.fingerprint = RowFingerprint(dtype)
        self._dtype = dtype
        # The second name of an embedding is no tensor of its own.
        self._left_out = {_OUTPUT} if tied else set()
        self._scale = 1.0 if adapter is None else _scale(adapter)

    async def passing(
        self, weights: AsyncIterator[tuple[str, torch.Tensor]], *, compare: bool
    ) -> AsyncIterator[tuple[str, torch.Tensor]]:
        async for name, tensor in weights:
            if name in self._left_out:
                continue
            # Vectors stay as they are: some engines keep a few of them in full precision.
            passed = tensor.to(self._dtype) if tensor.dim() > 1 and tensor.is_floating_point() else tensor
            self.bytes += passed.nbytes
            if compare:
                self.fingerprint.add(self._as_served(name, passed))
            yield name, passed

    def _as_served(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """vLLM multiplies an adapter's second matrix by the adapter's scale when it takes it in."""
        if self._scale != 1.0 and ".lora_B." in name:
            return tensor.to(self._dtype) * self._scale
        return tensor


def _scale(adapter: Mapping[str, Any]) -> float:
    """As ``vllm/lora/peft_helper.py``, 0.24.0."""
    rank, alpha = adapter["r"], adapter["lora_alpha"]
    return float(alpha / rank**0.5 if adapter.get("use_rslora") else alpha / rank)
