"""Wrong flow: returns, branches, loop control, exceptions, forgotten statements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import libcst as cst

from runtime.tasks.generate.mutators.base import Context, Delete, mutator

_EXCEPTIONS = {
    "KeyError": "IndexError",
    "IndexError": "KeyError",
    "ValueError": "TypeError",
    "TypeError": "ValueError",
    "AttributeError": "KeyError",
    "StopIteration": "ValueError",
}


@mutator("wrong_return", cst.Return, about="nothing returned, or the parts of a tuple in the wrong order")
def wrong_return(node: Any, context: Context) -> Iterator[Any]:
    value = node.value
    if value is None or (isinstance(value, cst.Name) and value.value == "None"):
        return
    if isinstance(value, cst.Tuple) and len(value.elements) == 2:
        first, second = value.elements
        elements = [first.with_changes(value=second.value), second.with_changes(value=first.value)]
        yield node.with_changes(value=value.with_changes(elements=elements))
    else:
        yield node.with_changes(value=cst.Name("None"))


@mutator("swapped_branches", cst.IfExp, about="the two values of a conditional expression swapped")
def swapped_branches(node: Any, context: Context) -> Iterator[Any]:
    yield node.with_changes(body=node.orelse, orelse=node.body)


@mutator("loop_control", cst.Break, cst.Continue, about="`break` for `continue`, or the reverse")
def loop_control(node: Any, context: Context) -> Iterator[Any]:
    yield cst.Continue() if isinstance(node, cst.Break) else cst.Break()


@mutator("wrong_exception", cst.Name, about="another exception caught")
def wrong_exception(node: Any, context: Context) -> Iterator[Any]:
    if node.value in _EXCEPTIONS and isinstance(context.parent, cst.ExceptHandler):
        yield cst.Name(_EXCEPTIONS[node.value])


@mutator("missing_statement", cst.SimpleStatementLine, about="a statement forgotten")
def missing_statement(node: Any, context: Context) -> Iterator[Any]:
    if len(node.body) != 1:
        return
    statement = node.body[0]
    if isinstance(statement, cst.AugAssign) or (
        isinstance(statement, cst.Expr) and isinstance(statement.value, cst.Call)
    ):
        yield Delete()
