"""Wrong names: another variable of the same function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import libcst as cst

from runtime.tasks.generate.mutators.base import Context, mutator


@mutator("wrong_variable", cst.Name, about="another parameter or local variable of the function")
def wrong_variable(node: Any, context: Context) -> Iterator[Any]:
    if node.value not in context.variables or node.value in ("self", "cls"):
        return
    parent = context.parent
    # Only places that read the variable: what is assigned to, deleted or a keyword stays.
    if not isinstance(
        parent,
        cst.Arg
        | cst.Index
        | cst.Slice
        | cst.BinaryOperation
        | cst.Comparison
        | cst.ComparisonTarget
        | cst.Return
        | cst.For
        | cst.CompFor,
    ):
        return
    if isinstance(parent, cst.Arg) and parent.keyword is node:
        return
    if isinstance(parent, cst.For | cst.CompFor) and parent.iter is not node:
        return
    at = context.variables.index(node.value)
    others = [name for name in context.variables if name not in (node.value, "self", "cls")]
    # The neighbours in order of appearance are the likeliest slips.
    yield from (cst.Name(name) for name in sorted(others, key=lambda name: abs(context.variables.index(name) - at))[:2])
