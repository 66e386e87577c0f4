"""All single-place mutants of one function, as new texts of its module. Does not run anything.

Only the function's own lines are parsed with libcst, and a mutant is spliced in as text, so a module of 5,000 lines
costs no more than one of 50, and everything around the changed expression stays as its authors wrote it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper

from runtime.tasks.generate.functions import Function, lines_of, parsed
from runtime.tasks.generate.mutators import REGISTRY, Context, Delete

_SHELL = b"if True:\n"
"""Makes an indented function parse without changing a column inside it."""


@dataclass(frozen=True)
class Mutant:
    """One wrong version of ``function``: ``segment`` replaces its lines; ``line`` counts from 1 in the module."""

    function: Function
    kind: str
    line: int
    before: str
    after: str
    segment: str

    def apply(self, source: str) -> str:
        """The whole module's text with the mutant in it."""
        lines = lines_of(source)
        return "".join([*lines[: self.function.start - 1], self.segment, *lines[self.function.end :]])


def mutants_of(function: Function, source: str) -> list[Mutant]:
    """Every distinct mutant of ``function`` in ``source``, in order of appearance; [] where libcst cannot read it, or
    where it is nested too deep for a walk over it."""
    try:
        return _mutants(function, source)
    except RecursionError:
        return []


def _mutants(function: Function, source: str) -> list[Mutant]:
    lines = lines_of(source)
    segment = "".join(lines[function.start - 1 : function.end])
    shell = _SHELL if segment[:1] in (" ", "\t") else b""
    encoded = segment.encode()
    try:
        original = ast.dump(parsed(shell + encoded))
        wrapper = MetadataWrapper(cst.parse_module(shell + encoded), unsafe_skip_copy=True)
        spans = wrapper.resolve(ByteSpanPositionProvider)
    except (cst.ParserSyntaxError, SyntaxError, ValueError):
        return []
    root = wrapper.module
    definition = next(node for node in _walk_types(root, (cst.FunctionDef,)))
    variables = _variables(definition)
    found: list[Mutant] = []
    seen: set[str] = set()
    for node, parent in _places(definition):
        for entry in REGISTRY:
            if not isinstance(node, entry.node_type):
                continue
            for new in entry.mutate(node, Context(parent, variables)):
                span = spans[node]
                start = span.start - len(shell)
                end = start + span.length
                text = "" if isinstance(new, Delete) else _code(node, new)
                if isinstance(new, Delete):
                    start, end, text = _deletion(encoded, start, end, parent)
                mutated = encoded[:start] + text.encode() + encoded[end:]
                if "\n" in text:
                    # Alone, a node does not know how far its further lines are indented.
                    mutated = root.deep_replace(node, new).bytes[len(shell) :]
                changed = _changed(shell + mutated)
                if changed is None or changed == original or changed in seen:
                    continue
                seen.add(changed)
                line = _first_difference(encoded, mutated)
                found.append(
                    Mutant(
                        function=function,
                        kind=entry.kind,
                        line=function.start + line,
                        before=encoded[start:end].decode().strip(),
                        after=text.strip(),
                        segment=mutated.decode(),
                    )
                )
    return found


def _first_difference(one: bytes, two: bytes) -> int:
    """The number of whole lines that both begin with."""
    pairs = zip(one.split(b"\n"), two.split(b"\n"), strict=False)
    return next((i for i, (left, right) in enumerate(pairs) if left != right), 0)


def _changed(text: bytes) -> str | None:
    try:
        tree = parsed(text, whole=True)
    except (SyntaxError, ValueError):
        return None
    return ast.dump(tree)


def _code(old: Any, new: Any) -> str:
    # A node's span lies inside its own parentheses, which stay in the text.
    if getattr(old, "lpar", None) and type(new) is type(old):
        new = new.with_changes(lpar=(), rpar=())
    text: str = cst.Module([]).code_for_node(new)
    return text


def _deletion(text: bytes, start: int, end: int, parent: Any) -> tuple[int, int, str]:
    """(start, end, replacement) that removes a statement's lines, or puts ``pass`` where it was the only one."""
    if len(parent.body) == 1:
        return start, end, "pass"
    line_start = text.rfind(b"\n", 0, start) + 1
    newline = text.find(b"\n", end)
    return line_start, len(text) if newline < 0 else newline + 1, ""


def _walk_types(node: Any, types: tuple[type, ...]) -> Iterator[Any]:
    if isinstance(node, types):
        yield node
    for child in node.children:
        yield from _walk_types(child, types)


def _places(definition: Any) -> Iterator[tuple[Any, Any]]:
    """(node, parent) of everything that may be mutated: parameters and body, without decorators, annotations and
    docstring."""
    for parameter in definition.params.children:
        yield from _below(parameter, definition.params)
    body = definition.body
    statements = list(body.body)
    if definition.get_docstring(clean=False) is not None:
        statements = statements[1:]
    for statement in statements:
        yield from _below(statement, body)


def _below(node: Any, parent: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Raise | cst.Assert | cst.ImportFrom | cst.Import):
        return
    yield node, parent
    for child in node.children:
        yield from _below(child, node)


def _variables(definition: Any) -> tuple[str, ...]:
    names: list[str] = []
    for parameter in _walk_types(definition.params, (cst.Param,)):
        names.append(parameter.name.value)
    for target in _walk_types(definition.body, (cst.AssignTarget, cst.For, cst.CompFor)):
        for name in _walk_types(target.target, (cst.Name,)):
            names.append(name.value)
    return tuple(dict.fromkeys(names))
