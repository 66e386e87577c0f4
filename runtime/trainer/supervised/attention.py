"""Attention over packs: rows of several demonstrations, none of which sees another. Registered with transformers under
the name ``liverl_packed``.

On a GPU torch's own FlashAttention kernel takes the boundaries as they are (``_flash_attention_forward`` with
cumulative lengths, what nested tensors use): no mask, no padding, and no package beside torch. Elsewhere each
demonstration is attended to by itself. Knows nothing of verl.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "liverl_packed"
BOUNDS_STEP = 64
"""Boundaries come in multiples of it: as few shapes as possible."""
SHORTEST = 256
"""Lengths are rounded up to this times a power of two, for the same reason."""
_HALF = (torch.bfloat16, torch.float16)


def register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack_bounds: torch.Tensor | None = None,
    pack_longest: int = 0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """``query`` (1, heads, tokens, width), ``key`` and ``value`` with as many or fewer heads. ``pack_bounds``:
    cumulative lengths of what lies in the pack, from 0 to all tokens, ascending; ``pack_longest``: at least the longest
    of them. Returns (1, tokens, heads, width)."""
    del attention_mask
    if pack_bounds is None:
        raise RuntimeError(f"{type(module).__name__} does not hand on what lies in a pack")
    if dropout:
        raise RuntimeError("attention over packs has no dropout: set attention_dropout to 0 in the model's config.json")
    groups = query.shape[1] // key.shape[1]
    rows = [one[0].transpose(0, 1) for one in (query, key, value)]  # (tokens, heads, width)
    if groups > 1:
        rows = [rows[0], *(one.repeat_interleave(groups, dim=1) for one in rows[1:])]
    if query.is_cuda and value.dtype in _HALF:
        flash = torch.ops.aten._flash_attention_forward
        kept = [one.to(value.dtype).contiguous() for one in rows]
        mixed = flash(*kept, pack_bounds, pack_bounds, pack_longest, pack_longest, 0.0, True, False, scale=scaling)[0]
    else:
        bounds = pack_bounds.tolist()
        pieces = [_alone([one[start:end] for one in rows], scaling) for start, end in pairwise(bounds) if end > start]
        mixed = torch.cat(pieces)
    return mixed[None], None


def _alone(rows: list[torch.Tensor], scaling: float | None) -> torch.Tensor:
    query, key, value = (one.transpose(0, 1)[None] for one in rows)
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)[0].transpose(0, 1)


def bounds_of(positions: torch.Tensor, *, padding: int) -> tuple[torch.Tensor, int]:
    """Cumulative lengths of what lies in a pack, and a bound on them; the padding behind it is cut into pieces that are
    no longer."""
    total = len(positions)
    starts = (positions == 0).nonzero()[:, 0].tolist()
    longest = SHORTEST
    while longest < max(end - start for start, end in pairwise([*starts, total])):
        longest *= 2
    bounds = [*starts, *range(total, total + padding, longest), total + padding]
    bounds += [total + padding] * (-len(bounds) % BOUNDS_STEP)
    return torch.tensor(bounds, dtype=torch.int32), longest
