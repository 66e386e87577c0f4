"""From a place in an artifact to the line of the spec that caused it (``.map.json``).

Joins two facts: which spec fields a value of an artifact follows from (``compiler.facts``), and where each spec field
was written (``compiler.load``). Knows no artifact's meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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


Places = Callable[[str], str]
"""Spec path -> ``file:line`` of what set it, without the column: lines are what a reviewer looks up."""


def places(positions: Positions) -> Places:
    """Of one spec: most fields are asked for many times."""

    @cache
    def line(origin: str) -> str:
        path = parse_path(origin)
        place = positions.nearest(path) if positions.written(path) else ""
        return (place.rsplit(":", 1)[0] if place.count(":") >= 2 else place) or DEFAULT

    return line


def map_facts(facts: Facts, at: Places) -> dict[str, Any]:
    """Artifact path -> ``{"from": spec paths, "at": file:line}``, and ``"why"`` for what the compiler decided."""
    found: dict[str, Any] = {}
    for path, fact in facts.items():
        found[path] = _entry(fact.origins, at)
        if fact.decided:
            found[path]["why"] = fact.why
        if fact.copied:
            others = tuple(origin for origin in fact.origins if origin != fact.copied)
            for suffix in _below(fact.value):
                found[path + suffix] = _entry((fact.copied + suffix, *others), at)
    return found


def map_origins(origins: Mapping[str, tuple[str, ...]], at: Places) -> dict[str, Any]:
    return {path: _entry(names, at) for path, names in origins.items()}


def _entry(origins: tuple[str, ...], at: Places) -> dict[str, Any]:
    return {"from": list(origins), "at": [at(origin) for origin in origins]} if origins else {}


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


def below(entries: Mapping[str, Any], path: str) -> list[str]:
    """The spec paths that the values below ``path`` follow from."""
    held = [entry for other, entry in entries.items() if other.startswith((f"{path}.", f"{path}["))]
    return list(dict.fromkeys(origin for entry in held for origin in entry.get("from", ())))
