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
DRAWN = "drawn "
CONSTANT = "constant "
_ONE, _LISTED = "one ", "listed "
"""Before a line: that it gives an object, and that it gives one within a list or a table."""
_MAX_WAYS = 256
"""So many ways by which objects come at one line are told apart. Of more, as of what a test draws, the line counts."""


class Places:
    """known: None: anything may be, and is noted. ``seen``: what was; ``refused``: what was and may not be."""

    def __init__(self, known: Iterable[str] | None) -> None:
        self._known = None if known is None else frozenset(known)
        self._constants: dict[str, set[str]] = {}
        for name, _, value in (one.rpartition(" ") for one in self.after(CONSTANT)):
            self._constants.setdefault(name, set()).add(value)
        self.mixes = known is None or bool(self.after(_DATA))
        self._ways: dict[int, str] = {}
        self._data: set[str] = set()
        self._inner: dict[str, set[str]] = {}
        self._times: dict[str, int] = {}
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

    def begin(self) -> None:
        """A test begins: what it asks once more is counted from there."""
        self._times = {}

    def is_mixed(self, where: str) -> bool:
        """Whether a line may give objects and data, so that it counts how often it has asked."""
        return self._known is None or f"{_DATA}{where}" in self._known

    def again(self, where: str, way: str) -> int:
        key = f"{where} by {plain.digest(way)}"
        self._times[key] = self._times.get(key, 0) + 1
        return self._times[key]

    def may(self, where: str, about: str, way: str) -> bool:
        """Whether an object may be there: by the line alone, where that gives nothing else; by its place in the answer
        too, where it does; and at last by what was asked, and how many times. way: all of it."""
        wider, inner = f"{where} at {about}", f"{where} by {plain.digest(way)}"
        known = self._known
        if known is None:
            self._note(where, wider, inner)
            self.seen.add(f"{_ONE if not about else _LISTED}{where}")
            return True
        if where not in known:
            return True
        if not about and f"{_LISTED}{where}" in known and f"{_ONE}{where}" not in known:
            return False  # of the work's own kind, in the place of a list of objects: it is gone through
        if f"{_DATA}{where}" not in known or f"{DRAWN}{where}" in known:
            return True
        if wider in known and (f"{_DATA}{wider}" not in known or inner in known):
            return True
        self.refused.add(inner if wider in known else wider)
        return False

    def _note(self, where: str, wider: str, inner: str) -> None:
        ways = self._inner.setdefault(where, set())
        if len(ways) < _MAX_WAYS:
            ways |= {wider, inner}
        else:
            self.seen.add(f"{DRAWN}{where}")

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
        """All that was seen; of the known solution also which of it was data at other times, and of those lines by
        which ways objects came."""
        mixed = [ways for where, ways in self._inner.items() if where in self._data]
        seen = self.seen.union(*mixed)
        return sorted(seen | {f"{_DATA}{place}" for place in self._data & seen})


def line_of(place: str) -> str:
    """The line of a place that is told more closely; "" for others."""
    for between in (" by ", " at "):
        line, found, _ = place.rpartition(between)
        if found and not place.startswith((_DATA, CONSTANT)):
            return line
    return ""


def drawn(places: Iterable[str], before: Iterable[str]) -> set[str]:
    """Lines at which another run with the known solution came by objects in other ways: its test draws what it asks."""
    known = set(before)
    return {f"{DRAWN}{line_of(place)}" for place in places if line_of(place) and place not in known}


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
