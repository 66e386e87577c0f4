"""Wrong values: numbers, truth values, strings, defaults, and bounds that are off by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import libcst as cst

from runtime.tasks.generate.mutators.base import Context, mutator

_COUNT = re.compile(
    r"[ijkmnr]|n_\w+|num_\w+|(\w+_)?(size|count|start|stop|step|end|index|idx|length|len|width|depth|limit|maxsplit|pos|num)"
).fullmatch


def _other_constants(node: Any) -> Iterator[Any]:
    if isinstance(node, cst.Integer):
        number = int(node.value, 0)
        yield cst.Integer(str(number + 1))
        if number > 0:
            yield cst.Integer(str(number - 1))
    elif isinstance(node, cst.Float):
        yield cst.Float(repr(float(node.value.replace("_", "")) * 2))
    elif isinstance(node, cst.Name) and node.value in ("True", "False"):
        yield cst.Name("False" if node.value == "True" else "True")


@mutator("constant", cst.Integer, cst.Float, cst.Name, about="another number or truth value")
def constant(node: Any, context: Context) -> Iterator[Any]:
    if not isinstance(context.parent, cst.Param | cst.Attribute):
        yield from _other_constants(node)


@mutator("string", cst.SimpleString, about="a short string emptied, or a space in its place")
def string(node: Any, context: Context) -> Iterator[Any]:
    if node.prefix or len(node.quote) != 1 or isinstance(context.parent, cst.Expr | cst.Param):
        return
    if len(node.raw_value) <= 2:
        yield cst.SimpleString(node.quote + (" " if not node.raw_value else "") + node.quote)


@mutator("default", cst.Integer, cst.Float, cst.Name, about="another default of a parameter")
def default(node: Any, context: Context) -> Iterator[Any]:
    if isinstance(context.parent, cst.Param) and context.parent.default is node:
        yield from _other_constants(node)


@mutator("off_by_one", cst.Name, cst.Attribute, cst.Call, about="a bound, index or count off by one")
def off_by_one(node: Any, context: Context) -> Iterator[Any]:
    parent = context.parent
    bound = isinstance(parent, cst.Slice | cst.Index)
    # Elsewhere only what its name calls a number: adding one to an iterator is a type error, not a slip.
    counted = (
        isinstance(parent, cst.Arg | cst.Assign | cst.Return) and isinstance(node, cst.Name) and _COUNT(node.value)
    )
    if (bound and getattr(node, "value", None) != "None") or (counted and not getattr(parent, "star", "")):
        yield cst.BinaryOperation(node, cst.Add(), cst.Integer("1"))
        yield cst.BinaryOperation(node, cst.Subtract(), cst.Integer("1"))
