"""What stands behind attention in a decoder layer: one MLP, or a mixture of experts of which a router chooses a few.

The mathematics follow transformers' ``Qwen3MoeSparseMoeBlock`` in float32. Knows neither sequences nor where a
mixture's choices are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.laptop.engine.linear import Linear


@dataclass(frozen=True)
class Mlp:
    """``gate_up`` [2 I, C], ``down`` [C, I]."""

    gate_up: Linear
    down: Linear

    def __call__(self, rows: Tensor) -> Tensor:
        gate, up = self.gate_up(rows).chunk(2, -1)
        return self.down(F.silu(gate).mul_(up))


@dataclass(frozen=True)
class Mixture:
    """``router`` [E, C]. ``normed``: the weights of the experts that are chosen for a token add up to 1."""

    router: Tensor
    experts: tuple[Mlp, ...]
    chosen: int
    normed: bool

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``rows`` [N, C] -> output [N, C] and the experts of each row [N, ``chosen``], the most likely first."""
        # Not through ``Linear``: where two experts are nearly alike the last bit decides, as it does in the trainer.
        shares, experts = F.linear(rows, self.router).softmax(-1).topk(self.chosen, -1)
        if self.normed:
            shares = shares / shares.sum(-1, keepdim=True)
        out = torch.zeros_like(rows)
        for expert in set(experts.flatten().tolist()):
            at, rank = (experts == expert).nonzero(as_tuple=True)
            out.index_add_(0, at, self.experts[expert](rows[at]) * shares[at, rank, None])
        return out, experts
