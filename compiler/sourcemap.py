"""From a place in an artifact to the line of the spec that caused it (``.map.json``).

Joins two facts: which spec fields a value of an artifact follows from (``compiler.facts``), and where each spec field
was written (``compiler.load``). Knows no artifact's meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from compiler.errors import Path
from compiler.facts import Facts
from compiler.positions import Positions

DEFAULT = "default"
"""Position of a value that no spec file sets: the default of its model."""


@cache
def parse_path(text: str) -> Path:
    """``tasks.train[0].name`` -> ``("tasks", "train", 0, "name")``."""
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in re.findall(r"\[\d+\]|[^.\[\]]+", text))


def origin_positions(origins: tuple[str, ...], positions: Positions) -> list[str]:
    """``file:line`` of each origin, without the column: lines are what a reviewer looks up."""
    return [_line(origin, positions) for origin in origins]


def _line(origin: str, positions: Positions) -> str:
    path = parse_path(origin)
    place = positions.nearest(path) if positions.written(path) else ""
    return (place.rsplit(":", 1)[0] if place.count(":") >= 2 else place) or DEFAULT


def map_facts(facts: Facts, positions: Positions) -> dict[str, Any]:
    """Artifact path -> ``{"from": spec paths, "at": file:line}``, or ``{"why": reason}`` for what the compiler
    decided."""
    found: dict[str, Any] = {}
    for path, fact in facts.items():
        if not fact.origins:
            found[path] = {"why": fact.why}
            continue
        found[path] = {"from": list(fact.origins), "at": origin_positions(fact.origins, positions)}
        if len(fact.origins) == 1 and isinstance(fact.value, dict | list):
            for suffix in _below(fact.value):
                origin = fact.origins[0] + suffix
                found[path + suffix] = {"from": [origin], "at": origin_positions((origin,), positions)}
    return found


def map_origins(origins: Mapping[str, tuple[str, ...]], positions: Positions) -> dict[str, Any]:
    return {path: {"from": list(names), "at": origin_positions(names, positions)} for path, names in origins.items()}


def _below(value: Any) -> Iterator[str]:
    items: Iterator[tuple[str, Any]]
    if isinstance(value, dict):
        items = ((f".{name}", child) for name, child in value.items())
    elif isinstance(value, list):
        items = ((f"[{index}]", child) for index, child in enumerate(value))
    else:
        return
    for suffix, child in items:
        yield suffix
        yield from (suffix + rest for rest in _below(child))


def lookup(entries: Mapping[str, Any], path: str) -> tuple[str, Any] | None:
    """The entry for ``path`` or for its closest parent."""
    while path:
        if path in entries:
            return path, entries[path]
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    return None
