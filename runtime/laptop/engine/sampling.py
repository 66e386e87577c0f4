"""Draw one token per row from a matrix of logits, each row under its own temperature, top-k and top-p, by a given
uniform number.

Knows nothing of sequences or models. The uniform numbers come from outside, one stream per request, so that a draw does
not depend on which other rows happen to share the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.rollouter.engine import SamplingParams

# Keeps u * total below the total for every double u < 1, so that the search always ends on a token that has mass.
_BELOW_ONE = 1.0 - 2.0**-40


def draw(logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
    """Token ids and natural-log probabilities of one draw per row of ``logits`` [N, V] (float32).

    The probability is that of the distribution drawn from: logits / temperature, then top-k, then top-p, renormalised.
    Temperature 0 takes the most likely token and reports its probability at temperature 1.
    """
    temperatures = [row.temperature for row in params]
    greedy = [temperature == 0.0 for temperature in temperatures]
    if any(temperature not in (0.0, 1.0) for temperature in temperatures):
        logits = logits / torch.tensor([temperature or 1.0 for temperature in temperatures])[:, None]
    logprobs = torch.log_softmax(logits, -1)
    vocabulary = logits.shape[-1]
    for index, row in enumerate(params):
        if not greedy[index] and (0 < row.top_k < vocabulary or row.top_p < 1.0):
            logprobs[index] = _truncate(logprobs[index], row)
    if all(greedy):
        tokens = logprobs.argmax(-1, keepdim=True)
    else:
        cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
        targets = torch.tensor(uniforms, dtype=torch.float64)[:, None] * (cumulative[:, -1:] * _BELOW_ONE)
        tokens = torch.searchsorted(cumulative, targets, right=True).clamp_(max=vocabulary - 1)
        if any(greedy):
            tokens = torch.where(torch.tensor(greedy)[:, None], logprobs.argmax(-1, keepdim=True), tokens)
    chosen: list[float] = logprobs.gather(1, tokens)[:, 0].tolist()
    ids: list[int] = tokens[:, 0].tolist()
    return ids, chosen


def _truncate(logprobs: Tensor, params: SamplingParams) -> Tensor:
    """One row [V] with everything outside top-k and top-p at -inf, renormalised. The most likely token always stays;
    top-p keeps the token that crosses the threshold, as vLLM and transformers do."""
    ordered, order = logprobs.sort(descending=True, stable=True)
    if 0 < params.top_k < len(ordered):
        ordered[params.top_k :] = -torch.inf
    if params.top_p < 1.0:
        mass = ordered.softmax(-1, dtype=torch.float64)
        before = mass.cumsum(-1) - mass
        outside = before >= params.top_p
        outside[0] = False
        ordered[outside] = -torch.inf
    return torch.full_like(logprobs, -torch.inf).scatter_(0, order, ordered.log_softmax(-1))
