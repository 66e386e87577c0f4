"""Rows of tokens as a tree: what several rows begin with lies in it once.

Branches of one session (sub-agents, compacted contexts, turns that were asked for again) and siblings of one group
begin alike. A token is another token of the tree when anything before it differs, so what a model computes at it is the
same in every row that holds it. Knows neither models nor verl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Row = NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """Indices are those of tokens in the tree, where each row that is new from some place on lies in one piece. Rows
    count as they were given, one behind the other."""

    kept: Tensor
    """Of each token, where it lies in the rows (the first that has it)."""
    positions: Tensor
    """Of each token, how many are before it in its row."""
    before: Tensor
    """Of each token, the one before it; a row's first token has itself."""
    place: Tensor
    """Of each token of the rows, its index."""
    following: Tensor
    """Of each token of the rows, the index of the next one of its row; of the last one its own."""
    bounds: Tensor
    """Where the pieces begin, and the end of the last."""
    keys: Tensor
    """What the pieces look back at: of each, its row from the first token to the piece's last."""
    key_bounds: Tensor
    """Where each piece's ``keys`` begin, and the end of the last."""
    longest: int
    """Tokens of the longest piece."""
    longest_row: int

    def to(self, device: Any) -> Tree:
        own: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        tensors = {name: one.to(device, non_blocking=True) for name, one in own.items() if isinstance(one, Tensor)}
        return Tree(**{**own, **tensors})


def in_order(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Indices of the rows so that those that begin alike are neighbours, and of each how many tokens it begins with
    that the one before it begins with, too."""
    keys = [row.astype(">i8").tobytes() for row in rows]  # bytes are compared as the numbers are: none is negative
    order = sorted(range(len(rows)), key=keys.__getitem__)
    shared = [0]
    for last, this in pairwise(order):
        length = min(len(rows[last]), len(rows[this]))
        differ = np.flatnonzero(rows[last][:length] != rows[this][:length])
        shared.append(int(differ[0]) if len(differ) else length)
    return order, shared[: len(order)]


def tree_of(rows: Sequence[Row]) -> Tree:
    order, shared = in_order(rows)
    starts = np.cumsum([0, *(len(row) for row in rows)])
    place: Row = np.zeros(starts[-1], dtype=np.int64)
    kept, positions, before, bounds, keys = [], [], [], [0], []
    path: Row = np.zeros(0, dtype=np.int64)
    for index, known in zip(order, shared, strict=True):
        row, end = rows[index], bounds[-1]
        new = np.arange(end, end + len(row) - known)
        path = np.concatenate([path[:known], new])
        place[starts[index] : starts[index + 1]] = path
        if not len(new):
            continue  # the row before is the same
        kept.append(np.arange(starts[index] + known, starts[index + 1]))
        positions.append(np.arange(known, len(row)))
        before.append(np.concatenate([path[known - 1 : known] if known else new[:1], new[:-1]]))
        bounds.append(end + len(new))
        keys.append(path)
    following = np.roll(place, -1)
    last = starts[1:] - 1
    following[last] = place[last]
    return Tree(
        kept=torch.from_numpy(np.concatenate(kept)),
        positions=torch.from_numpy(np.concatenate(positions)),
        before=torch.from_numpy(np.concatenate(before)),
        place=torch.from_numpy(place),
        following=torch.from_numpy(following),
        bounds=torch.tensor(bounds, dtype=torch.int32),
        keys=torch.from_numpy(np.concatenate(keys)),
        key_bounds=torch.from_numpy(np.cumsum([0, *(len(one) for one in keys)])).to(torch.int32),
        longest=int(np.diff(bounds).max()),
        longest_row=max(len(one) for one in keys),
    )


def unique_tokens(rows: Sequence[Row]) -> int:
    """Tokens of the tree of ``rows``."""
    return sum(len(row) for row in rows) - sum(in_order(rows)[1])


def cut(
    rows: Sequence[Row], *, tokens: int | None = None, count: int | None = None, at_least: int = 1
) -> list[list[int]]:
    """Indices of the rows in parts whose trees hold at most ``tokens``, or which are ``count`` rows each; those that
    begin alike are together where that allows it. ``at_least``: so many parts, for which there must be rows enough."""
    order, shared = in_order(rows)
    parts: list[list[int]] = []
    held = 0
    for index, known in zip(order, shared, strict=True):
        new = len(rows[index]) - known
        full = not parts or (held + new > tokens if tokens is not None else len(parts[-1]) == count)
        if full:
            parts.append([])
            held, new = 0, len(rows[index])
        parts[-1].append(index)
        held += new
    while len(parts) < at_least:
        longest = max(range(len(parts)), key=lambda at: len(parts[at]))
        whole = parts[longest]
        assert len(whole) > 1, "more parts than rows"
        parts[longest : longest + 1] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    return parts
