"""Random small functions: a list of statements with comments that say what each line should do.

Knows how to make and print a function and what its structure is; it does not know bugs, tests or files.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.laptop.synth.words import PHRASES, SHARE, Split

ARITHMETIC = ("+", "-", "*", "//")
COMPARISONS = (">=", ">", "<=", "<")


@dataclass(frozen=True)
class Line:
    """One line of a function body: its text, the kind of thing on it, and whether a comment says what it does."""

    text: str
    kind: str


@dataclass
class Function:
    """A generated function. ``structure`` abstracts from names and numbers; ``flags`` are the boolean parameters."""

    name: str
    parameters: list[str]
    flags: frozenset[str]
    lines: list[Line] = field(default_factory=list)
    shape: list[str] = field(default_factory=list)
    thresholds: list[int] = field(default_factory=list)

    @property
    def structure(self) -> str:
        return f"{len(self.parameters)}:{len(self.flags)}:" + ";".join(self.shape)

    def source(self) -> list[str]:
        return [f"def {self.name}({', '.join(self.parameters)}):", *(line.text for line in self.lines)]


def structure_split(structure: str) -> Split:
    """Which split a function structure belongs to: a fixed hash, so that no structure is ever in two."""
    bucket = int.from_bytes(hashlib.blake2b(structure.encode(), digest_size=4).digest(), "big") % 100
    return next(split for split, (low, high) in SHARE.items() if low <= bucket < high)


class Writer:
    """Writes one function statement by statement, keeping track of the names that are in scope."""

    def __init__(self, rng: random.Random, names: Sequence[str], numbers: Sequence[int]) -> None:
        self.rng = rng
        self.pool = list(names)
        self.numbers = numbers

    def fresh(self) -> str:
        return self.pool.pop(self.rng.randrange(len(self.pool)))

    def function(self, name: str) -> Function:
        rng = self.rng
        parameters = [self.fresh() for _ in range(rng.choice((2, 2, 3)))]
        flags: frozenset[str] = frozenset()
        if rng.random() < 0.5:
            flag = self.fresh()
            parameters.append(flag)
            flags = frozenset([flag])
        out = Function(name=name, parameters=parameters, flags=flags)
        scope = [name for name in parameters if name not in flags]
        kinds = [
            "assign",
            *rng.choices(("assign", "choice", "guard", "constant"), weights=(3, 2, 3, 2), k=rng.randint(2, 3)),
        ]
        if flags:
            kinds.insert(rng.randint(1, len(kinds)), "flag")
        for kind in kinds:
            getattr(self, f"_{kind}")(out, scope)
        out.lines.append(Line(f"    return {scope[-1]}", "return"))
        return out

    def _pair(self, scope: list[str]) -> tuple[str, str]:
        left = scope[-1] if len(scope) > 3 or self.rng.random() < 0.6 else self.rng.choice(scope)
        right = self.rng.choice([name for name in scope if name != left])
        return left, right

    def _refer(self, scope: list[str], *names: str) -> str:
        return ",".join(str(len(scope) - scope.index(name)) for name in names)

    def _assign(self, out: Function, scope: list[str]) -> None:
        operator = self.rng.choice(ARITHMETIC)
        left, right = self._pair(scope)
        target = self.fresh()
        out.shape.append(f"={operator}{self._refer(scope, left, right)}")
        out.lines.append(Line(f"    {target} = {left} {operator} {right}  # {PHRASES[operator]}", "arithmetic"))
        scope.append(target)

    def _choice(self, out: Function, scope: list[str]) -> None:
        which = self.rng.choice(("min", "max"))
        left, right = self._pair(scope)
        target = self.fresh()
        out.shape.append(f"{which}{self._refer(scope, left, right)}")
        out.lines.append(Line(f"    {target} = {which}({left}, {right})  # {PHRASES[which]}", "choice"))
        scope.append(target)

    def _constant(self, out: Function, scope: list[str]) -> None:
        operator = self.rng.choice(("+=", "-="))
        out.shape.append(operator)
        out.lines.append(Line(f"    {scope[-1]} {operator} {self.rng.choice(self.numbers)}", "constant"))

    def _body(self, out: Function, scope: list[str]) -> str:
        operator = self.rng.choice(("+", "-", "*"))
        other = self.rng.choice([name for name in scope if name != scope[-1]])
        out.lines.append(Line(f"        {scope[-1]} {operator}= {other}  # {PHRASES[operator]}", "arithmetic"))
        return f"{operator}{self._refer(scope, other)}"

    def _guard(self, out: Function, scope: list[str]) -> None:
        operator = self.rng.choice(COMPARISONS)
        subject = self.rng.choice(scope)
        number = self.rng.choice(self.numbers)
        out.thresholds.append(number)
        out.lines.append(Line(f"    if {subject} {operator} {number}:  # {PHRASES[operator]}", "comparison"))
        out.shape.append(f"if{operator}{self._refer(scope, subject)}{self._body(out, scope)}")

    def _flag(self, out: Function, scope: list[str]) -> None:
        (flag,) = out.flags
        negated = self.rng.random() < 0.5
        out.lines.append(
            Line(f"    if {'not ' if negated else ''}{flag}:  # {PHRASES['unset' if negated else 'set']}", "flag")
        )
        out.shape.append(f"flag{int(negated)}{self._body(out, scope)}")
