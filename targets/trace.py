"""Which spec fields each line of a rendered template follows from: those whose values stand on it, and those that
decided whether it is there.

Templates are compiled with calls of a ``Trace`` around every condition and loop. What these and the filters read is
marked in the text, and the marks are taken out again. Knows Jinja2, no format and no template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from compiler.reads import Noted, Reads, joined, narrowest

NAME = "_trace"
"""What templates call the trace of their rendering."""
_MARK = re.compile("\x02([(=)])([0-9]*)\x03")
_SPACE_BEFORE = re.compile("^(?:\\s|\x02[^\x03]*\x03)+")
_SPACE_AFTER = re.compile("(?:\\s|\x02[^\x03]*\x03)+$")


class Trace:
    """One rendering."""

    def __init__(self, reads: Reads, template: jinja2.Template, context: Mapping[str, Any]) -> None:
        self._reads = reads
        self._around = joined(*reads.open)
        self._noted: list[Noted] = []
        self._loops: list[int] = []
        self._marked, _ = reads.during(lambda: template.render({**context, NAME: self}))

    @property
    def text(self) -> str:
        return _MARK.sub("", self._marked)

    def origins(self) -> dict[int, tuple[str, ...]]:
        """Line -> spec fields."""
        found: dict[int, tuple[str, ...]] = {}
        entered: list[Noted] = []
        for number, line in enumerate(self._marked.split("\n"), 1):
            values, conditions = [], [self._around]
            for text, kind, index in _pieces(line) if "\x02" in line else [(line, "", "")]:
                conditions += entered if text.strip() else []
                if kind == "(":
                    entered.append(self._noted[int(index)])
                elif kind == ")":
                    entered.pop()
                elif kind == "=":
                    values.append(self._noted[int(index)])
            if origins := narrowest(joined(*values, *conditions)):
                found[number] = origins
        return found

    def _take(self) -> int:
        noted = self._reads.open[-1]
        self._noted.append(dict(noted))
        noted.clear()
        return len(self._noted) - 1

    def plain(self, value: Any) -> Any:
        return self._reads.plain(value)

    def value(self) -> str:
        """After a value."""
        return f"\x02={self._take()}\x03"

    def forget(self) -> str:
        """Where nothing follows from what was read."""
        self._reads.open[-1].clear()
        return ""

    def enter(self) -> str:
        """At the beginning of what a condition chose."""
        return f"\x02({self._take()}\x03"

    def leave(self) -> str:
        return "\x02)\x03"

    def each(self, items: Iterable[Any]) -> list[Any]:
        """What a loop goes through."""
        found = list(items)
        self._loops.append(self._take())
        return found

    def again(self) -> str:
        """At the beginning of a turn of the loop."""
        return f"\x02({self._loops[-1]}\x03"

    def done(self) -> str:
        self._loops.pop()
        return ""


def _pieces(line: str) -> Iterable[tuple[str, str, str]]:
    """Text and the mark after it."""
    parts = [*_MARK.split(line), "", ""]
    return zip(parts[::3], parts[1::3], parts[2::3], strict=True)


class TracedEnvironment(jinja2.Environment):
    """Compiles templates with the calls that a ``Trace`` needs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters["trim"] = _trim

    def compile(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(source, str):
            source = _Calls().visit(self.parse(source, *args[:2]))
        return super().compile(source, *args, **kwargs)


def _trim(text: str) -> str:
    """Marks are no text: what is white before and behind them goes too."""

    def marks(found: re.Match[str]) -> str:
        return "".join(mark[0] for mark in _MARK.finditer(found[0]))

    return _SPACE_AFTER.sub(marks, _SPACE_BEFORE.sub(marks, text))


class _Calls(NodeTransformer):
    def visit_If(self, node: nodes.If) -> list[nodes.Node]:
        self._choice(node)
        return [_output("forget"), node, _output("forget")]

    def _choice(self, node: nodes.If) -> None:
        for branch in (node, *node.elif_):
            branch.body = _around("enter", self._inner(branch.body), "leave")
        if node.else_:
            node.else_ = _around("enter", self._inner(node.else_), "leave")

    def visit_For(self, node: nodes.For) -> list[nodes.Node]:
        node.body = _around("again", self._inner(node.body), "leave")
        assert isinstance(node.iter, nodes.Expr)
        node.iter = _call("each", node.iter)
        return [_output("forget"), node, _output("done"), _output("forget")]

    def _inner(self, body: list[nodes.Node]) -> list[nodes.Node]:
        holder = nodes.Scope(body)
        self.generic_visit(holder)
        return list(holder.body)


def _around(before: str, body: list[nodes.Node], after: str) -> list[nodes.Node]:
    return [_output(before), *body, _output(after)]


def _output(method: str) -> nodes.Output:
    return nodes.Output([_call(method)])


def _call(method: str, *arguments: nodes.Expr) -> nodes.Call:
    function = nodes.Getattr(nodes.Name(NAME, "load"), method, "load")
    return nodes.Call(function, list(arguments), [], None, None)
