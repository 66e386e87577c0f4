"""Why a derived number changed: which of the changed spec fields move it.

Two specs are tried with one change at a time, forwards from the old and backwards from the new; whatever moves a number
is a cause of it. Knows no field and no number: only that numbers follow from specs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from compiler.errors import Path, SpecError, dotted

MOST_UNITS = 60
"""Changes that are tried; two specs with more have little in common."""


def units(old: Any, new: Any, path: Path = ()) -> list[Path]:
    """The changes between two resolved specs, each as small as it makes sense alone: where a variant changed, its
    fields changed with it."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type"):
        return [
            found
            for name in {**old, **new}
            for found in (
                units(old[name], new[name], (*path, name)) if name in old and name in new else [(*path, name)]
            )
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            found
            for index, (was, now) in enumerate(zip(old, new, strict=True))
            for found in units(was, now, (*path, index))
        ]
    return [path]


def causes(
    old: Mapping[str, Any], new: Mapping[str, Any], observe: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """Name of a number -> the changed spec fields that move it. ``observe``: numbers of a resolved spec; what it raises
    as ``SpecError`` says that a change is none alone."""
    changed = units(old, new)[:MOST_UNITS]
    found: dict[str, list[str]] = {}
    for start, other in ((old, new), (new, old)):
        before = observe(start)
        for path in changed:
            try:
                after = observe(_replaced(start, other, path))
            except SpecError:
                continue
            for name in {**before, **after}:
                if before.get(name) != after.get(name):
                    found.setdefault(name, []).append(dotted(path))
    return {name: tuple(dict.fromkeys(paths)) for name, paths in found.items()}


def _replaced(spec: Mapping[str, Any], other: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """``spec`` with what ``other`` has at ``path``."""
    changed = copy.deepcopy(dict(spec))
    node: Any = changed
    source: Any = other
    for part in path[:-1]:
        node, source = node[part], source[part]
    last = path[-1]
    if isinstance(source, dict) and last not in source:
        del node[last]
    else:
        node[last] = copy.deepcopy(source[last])
    return changed
