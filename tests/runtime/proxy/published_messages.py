"""Messages made of the types that Anthropic and OpenAI publish for their APIs (the typed dictionaries of their Python
packages): every alternative of every field, once with all fields and once with the required ones alone."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import typing_extensions

_DEPTH = 14
_MARKS = {typing.Annotated, typing_extensions.Annotated, typing.Required, typing.NotRequired}
_PLAIN: dict[Any, list[Any]] = {
    type(None): [None],
    str: ["text"],
    bool: [True],
    int: [3],
    float: [0.5],
    object: [{"k": 1}],
    Any: [{"k": 1}],
}


def samples(kind: Any, *, full: bool, depth: int = 0) -> list[Any]:
    """Values of a type; none of a type that JSON cannot hold, or that is nested too deep."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, inside = get_origin(kind), get_args(kind)
    if depth > _DEPTH:
        return []
    if origin in _MARKS:
        return samples(inside[0], full=full, depth=depth)
    if origin is Literal:
        return list(inside)
    if origin in (Union, types.UnionType):
        return [value for one in inside for value in samples(one, full=full, depth=depth + 1)]
    if typing.is_typeddict(kind) or typing_extensions.is_typeddict(kind):
        return _objects(kind, full, depth)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return [{"k": value} for value in samples(inside[1], full=full, depth=depth + 1)[:1]]
    if isinstance(origin, type) and issubclass(origin, Iterable | Sequence):
        return [[value] for value in samples(inside[0], full=full, depth=depth + 1)]
    return []


def _objects(kind: Any, full: bool, depth: int) -> list[Any]:
    """As many as the field with the most alternatives has."""
    fields: dict[str, list[Any]] = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        mark = get_origin(hint)
        # The classes' own lists of required keys miss those whose annotations are texts.
        required = mark is typing.Required or (kind.__total__ and mark is not typing.NotRequired)
        if not (required or full):
            continue
        found = samples(hint, full=full, depth=depth + 1)
        if not found and required:
            return []
        if found:
            fields[name] = found
    most = max((len(found) for found in fields.values()), default=1)
    return [{name: found[number % len(found)] for name, found in fields.items()} for number in range(most)]
