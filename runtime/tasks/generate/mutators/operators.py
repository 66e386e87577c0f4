"""Wrong operators: comparisons, arithmetic, booleans, negations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import libcst as cst

from runtime.tasks.generate.mutators.base import Context, mutator

_COMPARISONS: dict[type, tuple[type, ...]] = {
    cst.LessThan: (cst.LessThanEqual, cst.GreaterThan),
    cst.LessThanEqual: (cst.LessThan, cst.GreaterThanEqual),
    cst.GreaterThan: (cst.GreaterThanEqual, cst.LessThan),
    cst.GreaterThanEqual: (cst.GreaterThan, cst.LessThanEqual),
    cst.Equal: (cst.NotEqual,),
    cst.NotEqual: (cst.Equal,),
    cst.Is: (cst.IsNot,),
    cst.IsNot: (cst.Is,),
    cst.In: (cst.NotIn,),
    cst.NotIn: (cst.In,),
}

_BINARY: dict[type, tuple[type, ...]] = {
    cst.Add: (cst.Subtract,),
    cst.Subtract: (cst.Add,),
    cst.Multiply: (cst.Add, cst.FloorDivide),
    cst.Divide: (cst.FloorDivide, cst.Multiply),
    cst.FloorDivide: (cst.Divide, cst.Modulo),
    cst.Modulo: (cst.FloorDivide,),
    cst.Power: (cst.Multiply,),
    cst.BitAnd: (cst.BitOr,),
    cst.BitOr: (cst.BitAnd,),
    cst.BitXor: (cst.BitOr,),
    cst.LeftShift: (cst.RightShift,),
    cst.RightShift: (cst.LeftShift,),
}

_AUGMENTED: dict[type, tuple[type, ...]] = {
    cst.AddAssign: (cst.SubtractAssign,),
    cst.SubtractAssign: (cst.AddAssign,),
    cst.MultiplyAssign: (cst.AddAssign,),
    cst.DivideAssign: (cst.FloorDivideAssign,),
    cst.FloorDivideAssign: (cst.ModuloAssign,),
    cst.ModuloAssign: (cst.FloorDivideAssign,),
    cst.BitOrAssign: (cst.BitAndAssign,),
    cst.BitAndAssign: (cst.BitOrAssign,),
}


@mutator("comparison", cst.ComparisonTarget, about="another comparison operator")
def comparison(node: Any, context: Context) -> Iterator[Any]:
    for operator in _COMPARISONS.get(type(node.operator), ()):
        yield node.with_changes(operator=operator())


@mutator("arithmetic", cst.BinaryOperation, about="another arithmetic or bit operator")
def arithmetic(node: Any, context: Context) -> Iterator[Any]:
    if isinstance(node.operator, cst.Modulo) and isinstance(node.left, cst.SimpleString | cst.FormattedString):
        return  # text formatting, not arithmetic
    for operator in _BINARY.get(type(node.operator), ()):
        yield node.with_changes(operator=operator())


@mutator("arithmetic", cst.AugAssign, about="another arithmetic or bit operator")
def augmented(node: Any, context: Context) -> Iterator[Any]:
    for operator in _AUGMENTED.get(type(node.operator), ()):
        yield node.with_changes(operator=operator())


@mutator("boolean", cst.BooleanOperation, about="`and` for `or`, or one side forgotten")
def boolean(node: Any, context: Context) -> Iterator[Any]:
    yield node.with_changes(operator=cst.Or() if isinstance(node.operator, cst.And) else cst.And())
    yield node.left
    yield node.right


@mutator("dropped_not", cst.UnaryOperation, about="a `not` or a minus sign dropped")
def dropped(node: Any, context: Context) -> Iterator[Any]:
    if isinstance(node.operator, cst.Not | cst.Minus):
        yield node.expression


@mutator("negated_condition", cst.Name, cst.Attribute, cst.Call, cst.Subscript, about="a condition turned round")
def negated(node: Any, context: Context) -> Iterator[Any]:
    is_condition = isinstance(context.parent, cst.If | cst.While | cst.IfExp) and context.parent.test is node
    if is_condition and getattr(node, "value", None) not in ("True", "False"):
        yield cst.UnaryOperation(cst.Not(), node)
