"""Attention over sequences that lie packed one behind the other, by the flash kernels that torch itself brings.

Registered in transformers as ``liverl_varlen`` (verl's ``model.external_lib`` imports this module), so that padding is
left out without the package flash-attn, which has to be compiled. Where one sequence ends and the next begins is read
from the position ids, as transformers' own packed attention does. Knows neither verl nor the model. Upstream:
``torch/nn/attention/varlen.py``, ``transformers/integrations/sdpa_attention.py``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "liverl_varlen"
_HALF = (torch.bfloat16, torch.float16)
"""What the kernels compute in."""


class _Sequences:
    """Where the sequences of the newest batch begin. Every layer asks anew, and the answer costs a wait for the GPU."""

    def __init__(self) -> None:
        self._of: Tensor | None = None
        self._found: tuple[Tensor, int] = (torch.zeros(1, dtype=torch.int32), 0)

    def bounds(self, position_ids: Tensor) -> tuple[Tensor, int]:
        """Their bounds, the end of the last one included, and the length of the longest."""
        if self._of is not position_ids:
            flat = position_ids.reshape(-1)
            begins = (flat == 0).nonzero().reshape(-1)
            bounds = torch.cat([begins, begins.new_tensor([flat.numel()])]).to(torch.int32)
            self._of, self._found = position_ids, (bounds, int(bounds.diff().max()))
        return self._found


_sequences = _Sequences()


class Keys(NamedTuple):
    """What the pieces of a tree look back at (``runtime.trainer.prefix_tree``): of each piece, the whole row up to its
    last token, by index."""

    tokens: Tensor
    bounds: Tensor
    longest: int


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    position_ids: Tensor | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    pack_bounds: Tensor | None = None,
    pack_longest: int = 0,
    pack_keys: Keys | None = None,
    **_further: Any,
) -> tuple[Tensor, None]:
    """In transformers' form: ``(1, heads, tokens, size)`` in, ``(1, tokens, heads, size)`` out. Always causal.

    ``pack_bounds``: where the sequences begin and end, and ``pack_longest`` at least the longest one's length, from a
    caller who knows. ``pack_keys``: they look back at more than themselves."""
    if attention_mask is not None or query.shape[0] != 1 or (position_ids is None and pack_bounds is None):
        raise ValueError("attention varlen takes one row of packed sequences and their positions, no padding")
    if pack_bounds is not None:
        bounds, longest = pack_bounds, pack_longest
    else:
        assert position_ids is not None
        bounds, longest = _sequences.bounds(position_ids)
    # (tokens, heads, size); rotary embeddings may have widened the first two.
    rows = [one[0].transpose(0, 1).to(value.dtype) for one in (query, key, value)]
    window = -1 if sliding_window is None else sliding_window - 1
    key_bounds, longest_keys = bounds, longest
    if pack_keys is not None:
        rows[1:] = (row.index_select(0, pack_keys.tokens) for row in rows[1:])
        key_bounds, longest_keys = pack_keys.bounds, pack_keys.longest
    if query.is_cuda and value.dtype in _HALF:
        found = torch.ops.aten._flash_attention_forward(
            *rows,
            bounds,
            key_bounds,
            longest,
            longest_keys,
            dropout,
            True,  # causal: the last query sees the last key, however many more keys there are
            False,
            scale=scaling,
            window_size_left=window,
            window_size_right=0,
        )[0]
    else:
        found = _one_by_one(rows, bounds, key_bounds, scaling, window)
    return found.unsqueeze(0), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # every batch has other lengths
def _one_by_one(rows: list[Tensor], bounds: Tensor, key_bounds: Tensor, scaling: float, window: int) -> Tensor:
    """The same where there are no flash kernels."""
    parts = []
    for (begin, end), (first, last) in zip(pairwise(bounds.tolist()), pairwise(key_bounds.tolist()), strict=True):
        if begin == end:
            continue
        query = rows[0][begin:end].transpose(0, 1).unsqueeze(0)
        key, value = (row[first:last].transpose(0, 1).unsqueeze(0) for row in rows[1:])
        places = torch.arange(last - first, device=rows[0].device)
        back = places[begin - end :].unsqueeze(1) - places
        seen = (back >= 0) & ((back <= window) if window >= 0 else True)
        part = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, scale=scaling, enable_gqa=True
        )
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
