"""What a command line changes of a spec: ``--set path=json`` and ``--tla name=value``, as Jsonnet.

Knows Jsonnet and the marks of ``compiler.instrument``; knows nothing of the fields of a spec.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.errors import Path, dotted, refuse
from compiler.instrument import MARK

_PATH = re.compile(r"[^.\[\]=]+(\.[^.\[\]=]+|\[[0-9]+\])*")
_PART = re.compile(r"\[([0-9]+)\]|([^.\[\]]+)")


def as_json(text: str, where: str = "") -> str:
    """Command-line values: JSON as it is, anything else as a string. ``where`` names the argument. Raises ``SpecError``
    for a number that Jsonnet, whose numbers are all of 64 bits, cannot hold."""

    def float_of(number: str) -> float:
        if math.isinf(value := float(number)):
            raise refuse(
                f"{where}{number[:20]}: too large for a number",
                allowed="up to 1.7e308",
                fix="write a smaller number, or the text in quotes",
            )
        return value

    try:
        json.loads(text, parse_float=float_of, parse_int=float_of, parse_constant=_no_constant)
    except ValueError:
        return json.dumps(text)
    except RecursionError:
        raise refuse(f"{text[:20]}...: nested too deeply for a value", allowed="some hundred levels") from None
    return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python's json takes NaN and Infinity


@dataclass(frozen=True)
class Override:
    """One ``--set path=json``, applied inside Jsonnet, so that everything that derives from the value follows."""

    path: Path
    value: str

    def jsonnet(self, marks: str) -> str:
        return self._at(self.path, marks, ())

    def _at(self, path: Path, marks: str, done: Path) -> str:
        name, rest = str(path[0]), path[1:]
        key, here = json.dumps(name), (*done, path[0])
        if not rest:
            place = "--set " + dotted(self.path)
            mark = f"{json.dumps(MARK + name)}:: {json.dumps(place)}, " if marks == "hidden" else ""
            if marks == "visible":
                mark = f"{json.dumps(MARK + name)}: {json.dumps(place + MARK)}, "
            return f"{{ {mark}{key}: {self.value} }}"
        if isinstance(rest[0], int):
            inner = f"item + {self._at(rest[1:], marks, (*here, rest[0]))}" if len(rest) > 1 else self.value
            change = f"function(i, item) if i == {rest[0]} then {inner} else item"
            long = f"std.isArray(super[{key}]) && std.length(super[{key}]) > {rest[0]}"
            wrong = self._error(f"{dotted(here)} has no element {rest[0]}")
            return f"{{ {key}: if {long} then std.mapWithIndex({change}, super[{key}]) else {wrong} }}"
        wrong = self._error(f"{dotted(here)} is no object")
        held = f"if std.isObject(super[{key}]) then super[{key}] else if super[{key}] == null then {{}} else {wrong}"
        return f"{{ {key}: (if {key} in super then {held} else {{}}) + {self._at(rest, marks, here)} }}"

    def _error(self, what: str) -> str:
        return "error " + json.dumps(f"--set {dotted(self.path)}: {what}")


def override(text: str) -> Override:
    """``path.to[0].field=json``. Raises ``SpecError``."""
    path_text, equals, value = text.partition("=")
    parts: list[str | int] = []
    for index, name in _PART.findall(path_text):
        parts.append(int(index or name) if index or (parts and name.isdecimal()) else name)
    if (
        not equals
        or not _PATH.fullmatch(path_text)
        or any(isinstance(a, int) and isinstance(b, int) for a, b in itertools.pairwise(parts))
    ):
        raise refuse(
            f"--set {text}",
            allowed="--set path.to.field=JSON",
            fix="for example --set trainer.optimizer.learning_rate=1e-4, or --set tasks.train[0].source.count=8",
        )
    return Override(tuple(parts), as_json(value, f"--set {path_text}: "))


def parse_tlas(pairs: Sequence[str]) -> dict[str, str]:
    """``["k=v", ...]`` of ``--tla`` -> mapping."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise refuse(f"--tla {pair}", allowed="--tla name=value")
        found[name] = value
    return found
