"""What the compiler tells people: problems, each with a place, and the one exception that carries all of them.

Knows nothing of Jsonnet or of the spec's fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from compiler.redact import printable, redact

Severity = Literal["fatal", "warn"]
Path = tuple[str | int, ...]
"""A place in the spec: field names and array positions."""


_NAME = re.compile(r"[\w$-]+")


def dotted(path: Path) -> str:
    """``("tasks", "train", 0, "name")`` -> ``tasks.train[0].name``; names that are no words come in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _NAME.fullmatch(part) and len(part) <= 100:
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part if len(part) <= 60 else part[:57] + '...', ensure_ascii=False)}]"
    return text


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a spec.

    ``what`` says what was found, ``allowed`` what would be accepted, ``fix`` what to do. ``position`` is
    ``file:line:column``.
    """

    path: Path
    what: str
    allowed: str = ""
    fix: str = ""
    severity: Severity = "fatal"
    position: str = ""

    def __post_init__(self) -> None:
        for name in ("what", "allowed", "fix"):
            object.__setattr__(self, name, redact(getattr(self, name)))

    def __str__(self) -> str:
        text = f"{printable(self.position)}: {self.text}" if self.position else self.text
        return f"warning: {text}" if self.severity == "warn" else text

    @property
    def text(self) -> str:
        """Everything but the position: the same wherever the spec lies."""
        said = "; ".join(part for part in (self.what, self.allowed and f"allowed: {self.allowed}", self.fix) if part)
        return printable(f"{dotted(self.path)}: {said}" if self.path else said)

    def at(self, position: str) -> Problem:
        return replace(self, position=position)


class SpecError(Exception):
    """The spec (or an argument about it) is wrong: exit code 2. Holds every problem that was found, fatal ones and
    warnings."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def refuse(what: str, *, allowed: str = "", fix: str = "", path: Path = (), position: str = "") -> SpecError:
    """A ``SpecError`` with one problem."""
    return SpecError([Problem(path=path, what=what, allowed=allowed, fix=fix, position=position)])
