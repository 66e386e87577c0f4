"""Wrong calls: arguments swapped or forgotten, a sibling of the function that was meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import libcst as cst

from runtime.tasks.generate.mutators.base import Context, mutator
from runtime.tasks.generate.siblings import siblings

_OTHERS = siblings(
    (
        ("takewhile", "dropwhile"),
        ("chain", "zip"),
        ("filter", "filterfalse"),
    )
)


@mutator("swapped_arguments", cst.Call, about="two neighbouring arguments swapped")
def swapped(node: Any, context: Context) -> Iterator[Any]:
    arguments = list(node.args)
    for i in range(len(arguments) - 1):
        first, second = arguments[i], arguments[i + 1]
        if first.keyword or second.keyword or first.star or second.star:
            continue
        changed = [*arguments]
        changed[i] = first.with_changes(value=second.value)
        changed[i + 1] = second.with_changes(value=first.value)
        yield node.with_changes(args=changed)


@mutator("missing_argument", cst.Call, about="the last of several arguments forgotten")
def missing_argument(node: Any, context: Context) -> Iterator[Any]:
    arguments = list(node.args)
    if len(arguments) >= 2 and not arguments[-1].star:
        yield node.with_changes(args=[*arguments[:-2], arguments[-2].with_changes(comma=arguments[-1].comma)])


@mutator("sibling_call", cst.Call, about="a function or method that is easily confused with the right one")
def sibling(node: Any, context: Context) -> Iterator[Any]:
    name = node.func if isinstance(node.func, cst.Name) else getattr(node.func, "attr", None)
    if name is None:
        return
    for other in _OTHERS.get(name.value, ()):
        if isinstance(node.func, cst.Name):
            if other not in ("filterfalse", "takewhile", "dropwhile", "chain", "ceil", "floor"):
                yield node.with_changes(func=cst.Name(other))
        else:
            yield node.with_changes(func=node.func.with_changes(attr=cst.Name(other)))
