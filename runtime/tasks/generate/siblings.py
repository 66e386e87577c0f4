"""Functions and methods that are easily taken for each other: their calls read alike and give something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

_PAIRS = (
    ("min", "max"),
    ("any", "all"),
    ("lstrip", "rstrip"),
    ("startswith", "endswith"),
    ("lower", "upper"),
    ("find", "rfind"),
    ("index", "rindex"),
    ("split", "rsplit"),
    ("partition", "rpartition"),
    ("ljust", "rjust"),
    ("keys", "values"),
    ("append", "extend"),
    ("popleft", "pop"),
    ("appendleft", "append"),
    ("list", "tuple"),
    ("floor", "ceil"),
    ("isinstance", "issubclass"),
    ("union", "intersection"),
    ("discard", "add"),
)


def siblings(further: Iterable[tuple[str, str]]) -> Mapping[str, Sequence[str]]:
    """Name -> those that it is taken for; ``further``: pairs beside those that everybody knows."""
    found: dict[str, list[str]] = {}
    for one, two in (*_PAIRS, *further):
        found.setdefault(one, []).append(two)
        found.setdefault(two, []).append(one)
    return found
