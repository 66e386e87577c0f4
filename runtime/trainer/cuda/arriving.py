"""Weights on their way to an engine from a trainer on other GPUs, which says itself what they must add up to.

Knows no transport.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import torch

_Tensors = AsyncIterator[tuple[str, torch.Tensor]]


class Arriving:
    """The tensors of one version in the order in which they were sent, once; ``fingerprint`` is the trainer's, known at
    their end."""

    def __init__(self, tensors: Callable[[Arriving], _Tensors]) -> None:
        self.fingerprint: str | None = None
        self._tensors = tensors(self)

    def __aiter__(self) -> _Tensors:
        return self._tensors
