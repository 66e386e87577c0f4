"""The lowered form of a configuration: a nested mapping in which every value remembers the spec fields it follows from.

Knows neither verl nor vLLM; the ``lower_*`` modules fill it and the source map reads the origins back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Scalar = str | int | float | bool | None
Value = Scalar | list[Any] | dict[str, Any]


@dataclass(frozen=True)
class Fact:
    """One value of an artifact.

    ``origins`` are dotted spec paths; none means that the compiler itself decided, and ``why`` says why.
    """

    value: Value
    origins: tuple[str, ...]
    why: str = ""


class Facts:
    """Dotted artifact path -> ``Fact``, in the order of writing."""

    def __init__(self) -> None:
        self._facts: dict[str, Fact] = {}

    def follow(self, path: str, value: Value, *origins: str, why: str = "") -> None:
        """Set a value that follows from the spec fields ``origins``."""
        assert origins, f"{path} follows from nothing: use decide"
        self._put(path, Fact(value, origins, why))

    def decide(self, path: str, value: Value, why: str) -> None:
        """Set a value that no spec field speaks about."""
        self._put(path, Fact(value, (), why))

    def _put(self, path: str, fact: Fact) -> None:
        assert path not in self._facts, f"{path} is set twice"
        self._facts[path] = fact

    def replace(self, path: str, value: Value, *origins: str, why: str) -> None:
        """Change what another target wrote differently."""
        self._facts[path] = Fact(value, origins or (self._facts[path].origins if path in self._facts else ()), why)

    def drop(self, path: str) -> None:
        self._facts.pop(path, None)

    def copy(self) -> Facts:
        copied = Facts()
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

    def origins(self) -> Mapping[str, tuple[str, ...]]:
        return {path: fact.origins for path, fact in self._facts.items()}
