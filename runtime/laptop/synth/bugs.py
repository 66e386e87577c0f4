"""Breaking a generated function once: each bug is what one structured repair undoes.

Knows the families and which line of which kind they can break; does not know files or tests.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from runtime.laptop.synth.grammar import Function
from runtime.laptop.tools import repairs

FAMILIES: Final[dict[str, tuple[str, float]]] = {
    "operator": ("flip", 0.18),
    "bound": ("widen", 0.14),
    "direction": ("reverse", 0.14),
    "condition": ("negate", 0.20),
    "constant": ("raise lower", 0.10),
    "name": ("rename", 0.24),
}
"""Family -> (the repairs that undo it, its share of the tasks)."""

KINDS: Final = {
    "operator": ("arithmetic",),
    "bound": ("comparison",),
    "direction": ("comparison", "choice"),
    "condition": ("flag",),
    "constant": ("constant",),
    "name": ("arithmetic",),
}


@dataclass(frozen=True)
class Bug:
    """Line ``index`` of the function's source (0 = def) reads ``text`` instead; ``tool`` puts it right again."""

    family: str
    index: int
    text: str
    tool: str


def bugs(function: Function, family: str) -> list[Bug]:
    """Every bug of one family that this function can carry."""
    source = function.source()
    found = []
    for index, line in enumerate(function.lines, start=1):
        if line.kind not in KINDS[family]:
            continue
        if family == "constant":
            found += [
                Bug(family, index, text, undo)
                for do, undo in (("raise", "lower"), ("lower", "raise"))
                if (text := repairs.apply(do, source, index))
            ]
        elif family == "name":
            found += _rename(function, index)
        elif text := repairs.apply(FAMILIES[family][0], source, index):
            found.append(Bug(family, index, text, FAMILIES[family][0]))
    return [
        bug
        for bug in found
        if repairs.apply(bug.tool, [*source[: bug.index], bug.text, *source[bug.index + 1 :]], bug.index)
        == source[bug.index]
    ]


def _rename(function: Function, index: int) -> list[Bug]:
    """``x = a + b`` becomes ``x = a + a`` where that leaves the parameter b unused."""
    text = function.lines[index - 1].text
    match = re.match(r"(\s+\w+ = )(\w+)( \S+ )(\w+)(  #.*)$", text)
    if match is None:
        return []
    head, left, operator, right, tail = match.groups()
    rest = "\n".join(line.text for at, line in enumerate(function.lines, start=1) if at != index)
    if (
        right not in function.parameters
        or right in function.flags
        or re.search(rf"\b{right}\b", rest)
        or left not in function.parameters
    ):
        return []
    return [Bug("name", index, f"{head}{left}{operator}{left}{tail}", "rename")]


def draw_family(rng: random.Random, families: Mapping[str, float] | None = None) -> str:
    """``families``: how many times as often as usual a family comes, 1 where it is not named.

    Raises ``ValueError`` for a family that does not exist and when nothing is left to draw.
    """
    times = dict(families or {})
    if unknown := sorted(times.keys() - FAMILIES.keys()):
        raise ValueError(f"families: no {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    weights = [share * times.get(name, 1.0) for name, (_, share) in FAMILIES.items()]
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError("families: at least one must be left, and none can be less than nothing")
    return rng.choices(list(FAMILIES), weights=weights)[0]
