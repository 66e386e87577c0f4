"""What a mutator is, and the registry that all of them enter. Knows no single kind of bug."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Context:
    """What a mutator may know about the place of its node.

    ``parent`` is the node's parent in the syntax tree, ``variables`` the function's parameters and local names in
    order of appearance.
    """

    parent: Any
    variables: tuple[str, ...]


@dataclass(frozen=True)
class Delete:
    """A mutator's answer "this statement is missing"."""


Mutate = Callable[[Any, Context], Iterator[Any]]


@dataclass(frozen=True)
class Mutator:
    kind: str
    node_type: type
    mutate: Mutate


REGISTRY: list[Mutator] = []
KINDS: dict[str, str] = {}
"""kind -> one line for people."""


def mutator(kind: str, *node_types: type, about: str) -> Callable[[Mutate], Mutate]:
    """Register a function as a mutator of ``kind`` for nodes of the given types."""

    def register(function: Mutate) -> Mutate:
        KINDS[kind] = about
        REGISTRY.extend(Mutator(kind, node_type, function) for node_type in node_types)
        return function

    return register
