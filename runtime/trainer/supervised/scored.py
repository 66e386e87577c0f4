"""Log-probabilities of the tokens that count, and of no others: the largest matrix of a small model is its vocabulary,
and most tokens of a demonstration are not the policy's own.

Stands in for a model's ``forward`` where verl asks for fused log-probabilities
(``verl/models/transformers/dense_common.py``, 0.9.1). Knows nothing of packs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

LOGITS_AT_ONCE = 1 << 28
"""Logits that are held in memory at one time: a GiB in fp32."""


@dataclass
class Scored(ModelOutput):  # type: ignore[misc]
    """What verl reads of a fused forward pass."""

    log_probs: torch.Tensor | None = None


def log_probs(
    head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, labels: torch.Tensor, *, vocabulary: int
) -> torch.Tensor:
    """Of ``labels`` (n) under ``head`` of ``hidden`` (n, width). What would not fit in memory is computed in parts, and
    again for the gradient."""
    rows = max(1, LOGITS_AT_ONCE // vocabulary)
    if len(labels) <= rows:
        return _of(head, hidden, labels)
    parts = [
        checkpoint(_of, head, hidden[start : start + rows], labels[start : start + rows], use_reentrant=False)
        for start in range(0, len(labels), rows)
    ]
    return torch.cat(parts)


def _of(head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -cross_entropy(head(hidden).float(), labels, reduction="none")


def scored_forward(model: Any) -> Callable[..., Any]:
    """A ``forward`` for ``model`` that returns ``log_probs`` (1, tokens), 0 wherever nothing is scored."""
    vocabulary = int(model.config.vocab_size)

    def forward(
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        shift_labels: torch.Tensor,
        scored: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        use_cache: bool = False,
        temperature: float = 1.0,
        return_dict: bool = True,
        **handed_on: Any,
    ) -> Any:
        """``scored``: places whose next token counts; ``shift_labels`` has it."""
        del attention_mask, use_cache, return_dict
        assert temperature == 1.0
        hidden = model.model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **handed_on)[0][0]
        found = log_probs(model.lm_head, hidden[scored], shift_labels[0][scored], vocabulary=vocabulary)
        filled = torch.zeros(1, hidden.shape[0], dtype=found.dtype, device=found.device)
        return Scored(log_probs=filled.index_put((torch.zeros_like(scored), scored), found))

    return forward
