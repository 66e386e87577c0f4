"""Uncertainty of a solve rate. Knows nothing of tasks or runs."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054


def wilson(solved: float, total: int, *, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), within [0, 1]; ``solved`` may be an expectation and thus
    fractional.

    >>> [round(bound, 3) for bound in wilson(50, 100)]
    [0.404, 0.596]
    """
    if not 0 <= solved <= total or total <= 0:
        raise ValueError(f"{solved} solved of {total}")
    rate = solved / total
    centre = rate + z * z / (2 * total)
    margin = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)
