"""The functions of a package's modules, by name and line. Reads text; imports nothing of the package."""

from __future__ import annotations

import ast
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """One function or method. Lines count from 1; ``start`` is the first decorator's line (as in
    ``co_firstlineno``)."""

    path: str
    name: str
    qualified_name: str
    start: int
    end: int
    body_start: int
    """First line of the code after the docstring."""


def lines_of(source: str) -> list[str]:
    """Lines with their ends, counted as Python counts them (``str.splitlines`` also breaks at form feeds and
    others)."""
    return io.StringIO(source, newline="\n").readlines()


_ONE_AT_A_TIME = threading.Lock()
"""Threads share Python's warnings, and before 3.12 its count of a tree's depth: two that parse at once can end in
``SystemError``."""


def parsed(source: str | bytes, *, whole: bool = False) -> ast.Module:
    """The tree of code that others wrote, or that was made up; what Python would warn of in it is nobody's concern.
    Raises
    ``SyntaxError`` or ``ValueError``, also for what is nested too deep; ``whole``: also for what only the compiler
    refuses, such as ``return`` outside a function."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
            if whole:
                compile(tree, "<made up>", "exec", dont_inherit=True)
        except (RecursionError, MemoryError) as error:
            raise SyntaxError(f"nested too deep: {error}") from None
    return tree


def functions_of(path: str, source: str) -> list[Function]:
    """Top-level functions and methods, nested functions belonging to the one around them; [] for text that is not
    Python."""
    try:
        tree = parsed(source)
    except (SyntaxError, ValueError):
        return []
    return list(_visit(path, tree.body, ""))


def _visit(path: str, body: list[ast.stmt], prefix: str) -> Iterator[Function]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            code = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            if code:
                start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                assert node.end_lineno is not None
                yield Function(path, node.name, prefix + node.name, start, node.end_lineno, code[0].lineno)
        elif isinstance(node, ast.ClassDef):
            yield from _visit(path, node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            yield from _visit(path, [*node.body, *node.orelse], prefix)
