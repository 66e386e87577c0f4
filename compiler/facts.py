"""The lowered form of a configuration: a nested mapping in which every value remembers the spec fields it follows from.

Knows neither verl nor vLLM; the ``lower_*`` modules fill it and the source map reads the origins back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from compiler.reads import Reads, joined, narrowest

Scalar = str | int | float | bool | None
Value = Scalar | list[Any] | dict[str, Any]
P = ParamSpec("P")
S = TypeVar("S")


@dataclass(frozen=True)
class Fact:
    """One value of an artifact.

    ``origins`` are the dotted spec paths that were read for it, then those on which it depends that it is there at all.
    """

    value: Value
    origins: tuple[str, ...]
    why: str = ""
    decided: bool = False
    """Nothing was read for the value: the compiler itself decided, for the reason ``why``."""
    copied: str = ""
    """The spec path of a list or a mapping that is here as it is there."""


class Facts:
    """Dotted artifact path -> ``Fact``, in the order of writing."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads
        self._facts: dict[str, Fact] = {}

    def derive(self, path: str, value: Callable[[], Any], *, why: str = "") -> None:
        """Set a value that follows from what ``value`` reads of the spec."""
        fact = self._fact(value, why)
        assert not fact.decided, f"{path} follows from nothing: use decide"
        self._put(path, fact)

    def decide(self, path: str, value: Value, why: str) -> None:
        """Set a value that no spec field speaks about."""
        self._put(path, Fact(value, narrowest(joined(*self.reads.open)), why, decided=True))

    @contextmanager
    def section(self) -> Iterator[None]:
        """What is read in here beside values, to know which to write, is an origin of all that is written in here
        afterwards, and of nothing else."""
        self.reads.open.append({})
        try:
            yield
        finally:
            self.reads.open.pop()

    def _put(self, path: str, fact: Fact) -> None:
        assert path not in self._facts, f"{path} is set twice"
        self._facts[path] = fact

    def replace(self, path: str, value: Callable[[], Any], *, why: str) -> None:
        """Change what another target has otherwise, or lacks."""
        self._facts[path] = self._fact(value, why)

    def _fact(self, value: Callable[[], Any], why: str) -> Fact:
        made, noted = self.reads.during(lambda: self.reads.plain(value()))
        copied = ""
        if len(noted) == 1 and isinstance(made, list | dict) and made == self.reads.at(*noted):
            (copied,) = narrowest(noted)
        return Fact(made, narrowest(joined(noted, *self.reads.open)), why, decided=not noted, copied=copied)

    def split(self, path: str) -> None:
        """Put the parts of a mapping that was copied from the spec in its place."""
        parts: dict[str, Fact] = {}
        for name, fact in self._facts.items():
            if name == path:
                assert fact.copied and isinstance(fact.value, dict)
                for key, value in fact.value.items():
                    origin = f"{fact.copied}.{key}"
                    origins = (origin, *(other for other in fact.origins if other != fact.copied))
                    parts[f"{path}.{key}"] = Fact(value, origins, copied=origin)
            else:
                parts[name] = fact
        self._facts = parts

    def drop(self, path: str) -> None:
        self._facts.pop(path, None)

    def copy(self) -> Facts:
        copied = Facts(self.reads)
        copied._facts = dict(self._facts)
        return copied

    def items(self) -> Iterator[tuple[str, Fact]]:
        return iter(self._facts.items())

    def __getitem__(self, path: str) -> Fact:
        return self._facts[path]

    def __contains__(self, path: str) -> bool:
        return path in self._facts

    def tree(self) -> dict[str, Any]:
        """Nested mapping, keys in the order of writing."""
        root: dict[str, Any] = {}
        for path, fact in self._facts.items():
            *parents, last = path.split(".")
            node = root
            for name in parents:
                node = node.setdefault(name, {})
                assert isinstance(node, dict), f"{path} lies below a value"
            node[last] = fact.value
        return root


def section(write: Callable[Concatenate[S, Facts, P], None]) -> Callable[Concatenate[S, Facts, P], None]:
    """A function that is a section of the facts that it writes."""

    @wraps(write)
    def written(source: S, facts: Facts, /, *args: P.args, **kwargs: P.kwargs) -> None:
        with facts.section():
            write(source, facts, *args, **kwargs)

    return written
