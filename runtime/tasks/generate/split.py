"""Which split a function belongs to: decided by its bare name, before anything about it is looked at.

All packages share the rule, so that ports of one function in two packages stay on one side. Near-copies under other
names are not looked for.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "held_out", "demonstrations"]

SHARES: dict[Split, float] = {"train": 0.45, "held_out": 0.35, "demonstrations": 0.20}


def split_of(name: str, *, seed: int = 0) -> Split:
    """The split of the functions called ``name``. Leading underscores and case do not count."""
    key = f"liverl-split/{seed}/{name.lower().strip('_')}"
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    for split, share in SHARES.items():
        point -= share
        if point < 0:
            return split
    return "demonstrations"
