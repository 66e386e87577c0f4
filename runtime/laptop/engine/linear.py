"""A linear layer that takes the faster of torch's two CPU matrix libraries.

``F.linear`` in float32 goes to MKL, which runs at half speed on processors that are not Intel's (97 against 210 GFLOP/s
on one Zen 5 core). oneDNN, which torch ships as well, chooses its kernels by instruction set; it costs more per call,
so that it pays from a few rows on. Where torch has no oneDNN, everything goes through ``F.linear``. Knows nothing of
models.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN_FROM_ROWS = 8
_HAS_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear:
    """x [N, in] -> x weight^T + bias [N, out], all float32. ``weight`` [out, in] and ``bias`` must not be changed
    later."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self._packed: Tensor | None = None
        if _HAS_ONEDNN:
            with torch.inference_mode():
                self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.clone(), 256)

    def __call__(self, rows: Tensor) -> Tensor:
        count = len(rows)
        if self._packed is None or count < _ONEDNN_FROM_ROWS:
            return F.linear(rows, self.weight, self.bias)
        padding = -count % _granularity(count)
        if padding:
            rows = F.pad(rows, (0, 0, 0, padding))
        out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return out[:count] if padding else out


def _granularity(count: int) -> int:
    """Row counts that are used are multiples of this: oneDNN generates code for every new one (0.5 ms each).

    Eight sizes per doubling, at least 8 apart: a few dozen in all, for at most an eighth of waste.
    """
    return max(8, 1 << (count.bit_length() - 4))
