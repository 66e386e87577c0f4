"""Experts that were chosen before, put in the place of those that a mixture's routers would choose now.

A forward hook on each router of a transformers model: the router computes what it always does, the experts are those
that were recorded for the token, and their weights are the present router's, with gradients. Knows neither verl nor
where the recorded experts come from. Upstream: ``Qwen3MoeTopKRouter`` in
``transformers/models/qwen3_moe/modeling_qwen3_moe.py`` and its like, 5.10.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

SOFTMAX_ROUTERS = frozenset(
    {
        "GptOssTopKRouter",
        "MixtralTopKRouter",
        "OlmoeTopKRouter",
        "Qwen2MoeTopKRouter",
        "Qwen3MoeTopKRouter",
        "Qwen3NextTopKRouter",
        "Qwen3VLMoeTextTopKRouter",
        "Qwen3_5MoeTopKRouter",
    }
)
"""Classes whose weights are the softmax of the scores, made to add up to 1 among the chosen (unless ``norm_topk_prob``
says otherwise). Others weigh by sigmoids, biases or groups, or choose outside of the router."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


class ReplayedExperts:
    """Of one model. Raises ``ValueError`` when it has no routers, or ones that are not known."""

    def __init__(self, model: nn.Module) -> None:
        self._routers = _routers(model)
        self._rows: Tensor | None = None
        for layer, router in self._routers.items():
            router.register_forward_hook(partial(self._replace, layer))

    def arm(self, rows: Tensor | None) -> None:
        """From now on these experts [tokens, layers, K], in the order in which the routers see the tokens; None: their
        own. They hold for the backward pass too, in which checkpointed layers are computed again.

        A row that names an expert twice is nobody's choice: there the router chooses.
        """
        if rows is not None and rows.shape[1] <= max(self._routers):
            raise ValueError(f"experts of {rows.shape[1]} layers; the last router is in layer {max(self._routers)}")
        self._rows = rows

    def _replace(self, layer: int, router: Any, _given: Any, output: tuple[Tensor, Tensor, Tensor]) -> Any:
        if self._rows is None:
            return None
        logits, weights, own = output
        chosen = self._rows[:, layer].to(own)
        if chosen.shape != own.shape:
            raise ValueError(f"experts of shape {tuple(chosen.shape)} where layer {layer} chooses {tuple(own.shape)}")
        if chosen.shape[1] > 1:
            unknown = chosen[:, 0] == chosen[:, 1]
            chosen = own.where(unknown[:, None], chosen)
        shares = logits.float().softmax(-1).gather(1, chosen)
        if getattr(router, "norm_topk_prob", True):
            shares = shares / shares.sum(-1, keepdim=True)
        return logits, shares.to(weights.dtype), chosen


def _routers(model: nn.Module) -> Mapping[int, nn.Module]:
    """By decoder layer."""
    found: dict[int, nn.Module] = {}
    strange: set[str] = set()
    for name, module in model.named_modules():
        kind = type(module).__name__
        if not kind.lower().endswith(("router", "gate")) and kind not in SOFTMAX_ROUTERS:
            continue
        place = _LAYER.search(name)
        if kind in SOFTMAX_ROUTERS and place is not None:
            found[int(place[1])] = module
        else:
            strange.add(kind)
    if strange or not found:
        what = f"routers {', '.join(sorted(strange))}" if strange else "no router"
        raise ValueError(
            f"{type(model).__name__} has {what}; experts are replayed in {', '.join(sorted(SOFTMAX_ROUTERS))}: set "
            "routing_replay to 'off', or train with veomni or megatron"
        )
    return found
