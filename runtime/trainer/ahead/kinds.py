"""Kinds of processes that import ahead, as a platform names them. Starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """``count`` processes that import ``modules``."""

    name: str
    count: int
    modules: Sequence[str]
