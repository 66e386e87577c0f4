"""Which demonstrations lie in one pack: a row of a fixed number of tokens, filled one demonstration after the other.

Knows lengths only. Free of torch and verl.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

OPEN_PACKS = 64
"""Packs that wait for something small enough: enough of them leave a hundredth of the tokens empty."""


def pack(lengths: Sequence[int], *, size: int, seed: int) -> list[list[int]]:
    """Indices of every demonstration, each once, in packs of at most ``size`` tokens. Drawn from ``seed``: what lies
    together is chance, whatever the order of the file.

    Raises ``ValueError`` for a demonstration that is longer than a pack.
    """
    order = list(range(len(lengths)))
    random.Random(f"{seed}/packs").shuffle(order)
    full: list[list[int]] = []
    packs: list[tuple[int, list[int]]] = []
    for index in order:
        length = lengths[index]
        if length > size:
            raise ValueError(f"{length} tokens do not fit into a pack of {size}")
        place = next((at for at, (free, _) in enumerate(packs) if free >= length), None)
        if place is None:
            if len(packs) == OPEN_PACKS:
                fullest = min(range(OPEN_PACKS), key=lambda at: packs[at][0])
                full.append(packs.pop(fullest)[1])
            packs.append((size - length, [index]))
        else:
            free, held = packs[place]
            packs[place] = (free - length, [*held, index])
    return [*full, *(held for _, held in packs)]
