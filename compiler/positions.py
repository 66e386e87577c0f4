"""Where the values of a spec were written, and how that is read out of a marked evaluation (``compiler.instrument``).

Knows the shape of marks and trees; knows nothing of the fields of a spec, nor how it is evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from compiler.errors import Path, Problem
from compiler.instrument import MARK

_INCOMPLETE = MARK + "*"
LIBRARY, SPECS = "<library>/", "<specs>/"
"""How places in LiveRL's own Jsonnet files begin."""


@dataclass(frozen=True)
class Positions:
    """Where each value of the spec was written: ``file:line:column``, files relative to the spec's folder (or
    ``<library>/...``)."""

    exact: Mapping[Path, str]
    value: Any = None
    """The evaluated spec: what it does not hold was written nowhere."""
    spec: str = ""
    """The spec as the user typed it, for messages."""
    spec_folder: str = ""
    """The folder that positions are relative to, as people see it."""
    library_folder: str = ""

    def nearest(self, path: Path) -> str:
        """The place of the value at ``path``, or of its closest parent whose place is known; "" when there is none."""
        for length in range(len(path), 0, -1):
            if found := self.exact.get(path[:length]):
                return found
        return ""

    def written(self, path: Path) -> bool:
        """Whether a spec file (and not a default) gives the value at ``path``."""
        node = self.value
        for part in path:
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def display(self, path: Path) -> str:
        """``nearest`` as a path from the working directory; the spec itself when no place is known."""
        return self.displayed(self.nearest(path)) or self.spec

    def own(self, path: Path) -> str:
        """``display`` for somebody who shall change it: where a line of the library set the value, the place in the
        user's files that took it from there."""
        for length in range(len(path), 0, -1):
            found = self.exact.get(path[:length], "")
            if found and not found.startswith((LIBRARY, SPECS)):
                return self.displayed(found)
        return self.display(path)

    def displayed(self, position: str) -> str:
        if position.startswith(LIBRARY):
            return str(FilePath(self.library_folder) / position.removeprefix(LIBRARY))
        if position.startswith(SPECS) and self.library_folder + "/" != LIBRARY:
            return str(FilePath(self.library_folder).parent / position.removeprefix(SPECS))
        if not position or position.startswith(("--", SPECS)):
            return position
        return str(FilePath(self.spec_folder) / position)


def located(problems: Sequence[Problem], positions: Positions) -> list[Problem]:
    """The problems with ``file:line:column`` of the spec."""
    return [problem if problem.position else problem.at(positions.own(problem.path)) for problem in problems]


def parsed(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except RecursionError:
        return None


def separate(marked: Any, value: Any, path: Path, found: dict[Path, str]) -> bool:
    """Collect the places from a value with visible marks. False where it differs from the value without them, or where
    places are missing: the spec looked at its own fields, and the places cannot be trusted."""
    if isinstance(value, dict):
        if not isinstance(marked, dict) or _INCOMPLETE in marked:
            return False
        for name, child in value.items():
            if name not in marked:
                return False
            here = (*path, name)
            place = marked.get(MARK + name)
            if isinstance(place, str) and place.find(MARK) == len(place) - 1:
                found[here] = place[:-1]
            other = marked[name]
            if isinstance(child, dict | list):
                if not separate(other, child, here, found):
                    return False
            elif child != other or type(child) is not type(other):
                return False
        return len(value) == sum([not name.startswith(MARK) for name in marked])
    if isinstance(value, list):
        if not isinstance(marked, list) or len(marked) != len(value):
            return False
        for index, child in enumerate(value):  # noqa: SIM110 - all() would take two frames a level
            if not separate(marked[index], child, (*path, index), found):
                return False
        return True
    return bool(value == marked) and type(value) is type(marked)


def flatten(tree: Any, path: Path, found: dict[Path, str]) -> None:
    """Positions tree -> path -> place. An object's entry is ``[place or null, subtree]``, an array's its subtree."""
    if isinstance(tree, dict):
        for name, entry in tree.items():
            if not isinstance(entry, list) or len(entry) != 2:
                return
            if isinstance(entry[0], str):
                found[(*path, name)] = entry[0]
            flatten(entry[1], (*path, name), found)
    elif isinstance(tree, list):
        for index, entry in enumerate(tree):
            flatten(entry, (*path, index), found)
