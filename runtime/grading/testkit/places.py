"""Where answers of the code under test may be objects, and what else only the known solution may do.

A place is a line of the tests' own and what is asked there. A run with the known solution notes all that it sees
(``Places(None)``); a run with anybody's work is held to it. One line may give an object for one name and text for
another: then what was asked counts too, and where in the answer it is. It knows no transport and no tests.
"""

from __future__ import annotations

import json

if __package__:
    from . import plain
else:  # beside a runner that was started as a program
    import plain  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_DATA = "data "
CONSTANT = "constant "


class Places:
    """known: None: anything may be, and is noted. ``seen``: what was; ``refused``: what was and may not be."""

    def __init__(self, known: Iterable[str] | None) -> None:
        self._known = None if known is None else frozenset(known)
        self._constants: dict[str, set[str]] = {}
        for name, _, value in (one.rpartition(" ") for one in self.after(CONSTANT)):
            self._constants.setdefault(name, set()).add(value)
        self._ways: dict[int, str] = {}
        self._data: set[str] = set()
        self.seen: set[str] = set()
        self.refused: set[str] = set()

    @property
    def open(self) -> bool:
        return self._known is None

    def has(self, place: str) -> bool:
        self.seen.add(place)
        return self._known is None or place in self._known

    def knows(self, place: str) -> bool:
        """Like ``has``, but only for what the known solution is known to do."""
        self.seen.add(place)
        return self._known is not None and place in self._known

    def is_known(self, place: str) -> bool:
        """The same of what is not noted."""
        return self._known is not None and place in self._known

    def ends(self, text: str) -> bool:
        return any(place.endswith(text) for place in self._known or ())

    def after(self, text: str) -> list[str]:
        """What is known, of all that begins with ``text``, without it."""
        return [place[len(text) :] for place in self._known or () if place.startswith(text)]

    def look(self, data: Any, where: str) -> list[tuple[str, str, list[Any]]]:
        """The objects in an answer, as ``plain.leaves`` has them. What else is there is noted as data."""
        found = []
        for about, exactly, leaf in plain.leaves(data):
            if leaf is not None:
                found.append((about, exactly, leaf))
            elif self._known is None:
                self._data |= {where, f"{where} at {about}"}
        return found

    def may(self, where: str, about: str, way: str) -> bool:
        """Whether an object may be there: by the line alone, where that gives nothing else; by its place in the answer
        too, where it does; and at last by what was asked. way: all of it."""
        wider, inner = f"{where} at {about}", f"{where} by {plain.digest(way)}"
        self.seen |= {wider, inner}
        known = self._known
        if known is None or where not in known or f"{_DATA}{where}" not in known:
            return True
        if wider in known and (f"{_DATA}{wider}" not in known or inner in known):
            return True
        self.refused.add(inner if wider in known else wider)
        return False

    def keeps(self, name: str, value: str) -> bool:
        """Whether a constant of a module is what it is with the known solution, where that has left it alone."""
        if not value:
            return True
        self.seen.add(f"{CONSTANT}{name} {value}")
        return name not in self._constants or value in self._constants[name]

    def came(self, number: int, way: str) -> None:
        self._ways.setdefault(number, plain.digest(way))

    def way(self, number: Any) -> str:
        """How an object was come by, whatever its number is in this run."""
        return self._ways.get(number, "")

    def told(self, data: Any, lent: Callable[[Any], str]) -> str:
        """Encoded arguments as text, the same in every run."""

        def named(data: Any) -> Any:
            if type(data) is dict:
                return {key: named(item) for key, item in data.items()}
            if type(data) is not list or not data:
                return data
            if data[0] == "o" and len(data) == 2:
                return ["o", self.way(data[1])]
            if data[0] == "fn":
                return ["fn", lent(data[1])]
            made = [named(item) for item in data]
            return ["s", *sorted(made[1:], key=repr)] if data[0] in ("s", "f") else made

        return json.dumps(named(data), sort_keys=True)

    def noted(self) -> list[str]:
        """Of a run with the known solution: all that was seen, and which of it was data at other times."""
        return sorted(self.seen | {f"{_DATA}{place}" for place in self._data & self.seen})


def kept_constants(known: Iterable[str], before: Iterable[str]) -> tuple[str, ...]:
    """``known`` without constants that the known solution changes, or that are not the same each time."""
    found, others = set(known), set(before)
    values: dict[str, set[str]] = {}
    for place in found | others:
        if place.startswith(CONSTANT):
            name, _, value = place.rpartition(" ")
            values.setdefault(name, set()).add(value)
    steady = {name for name, ones in values.items() if len(ones) == 1}
    return tuple(
        sorted(
            place
            for place in found
            if not place.startswith(CONSTANT) or (place in others and place.rpartition(" ")[0] in steady)
        )
    )
