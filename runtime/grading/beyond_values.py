"""Whether tests may look at more than the values that calls give: at what happens in their own process.

With the code under test in another process such tests see less than in one: warnings, output, modules, threads, a list
that is handed out and not copied. Most tests compare values and see as much; this says so only where their text leaves
nothing else. It runs nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from functools import lru_cache

_MODULES = frozenset(
    {
        *("math", "decimal", "fractions", "datetime", "re", "json", "itertools", "functools", "string", "collections"),
        *("operator", "random", "typing", "enum", "uuid", "textwrap", "statistics", "unittest", "pytest", "__future__"),
    }
)
"""Of which nothing tells what happens in a process."""
_LOOK = frozenset(
    {
        *("type", "vars", "dir", "id", "globals", "locals", "open", "exec", "eval", "compile", "getattr", "hasattr"),
        *("setattr", "delattr", "callable", "super", "issubclass", "memoryview", "__import__", "breakpoint"),
    }
)
_CHANGE = frozenset(
    {
        *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "update", "add", "discard"),
        *("setdefault", "popitem", "appendleft", "extendleft", "popleft", "write", "send", "throw", "close"),
    }
)
_SEE = frozenset({"warns", "deprecated_call", "filterwarnings", "assertWarns", "assertWarnsRegex", "mock"})
_SEE_LOGS = frozenset({"assertLogs", "assertNoLogs", "importorskip", "assertIs", "assertIsNot"})
_OF_PYTEST = frozenset({"parametrize", "approx", "raises", "fixture", "param", "isclose", "field", "dataclass"})
_CONTEXTS = frozenset({"self", "cls", "request"})


def look_beyond_values(sources: Iterable[bytes], own_modules: Collection[str]) -> bool:
    """sources: of the tests and their helpers. own_modules: names at the top that the repository has."""
    own = frozenset(own_modules)
    return any(_looks(source, own) for source in sources)


@lru_cache(maxsize=256)
def _looks(source: bytes, own: frozenset[str]) -> bool:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return True
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    given = _CONTEXTS | {function.name for function in functions}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) == "parametrize" and node.args:
            given |= {word.strip() for word in _texts(node.args[0]) for word in word.split(",")}
    if any(_takes_other(function, given) for function in functions if function.name.startswith("test")):
        return True
    return any(_node_looks(node, own) for node in ast.walk(tree))


def _takes_other(function: ast.FunctionDef | ast.AsyncFunctionDef, given: Collection[str]) -> bool:
    """Whether a test takes a fixture that is not in its file: what is captured, patched or warned of."""
    return any(argument.arg not in given for argument in (*function.args.args, *function.args.kwonlyargs))


def _texts(node: ast.expr) -> list[str]:
    return [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _node_looks(node: ast.AST, own: frozenset[str]) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] not in _MODULES | own for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        taken = {alias.name for alias in node.names}
        known = node.level > 0 or (node.module or "").partition(".")[0] in _MODULES | own
        return not known or "mock" in taken or "mock" in (node.module or "")
    if isinstance(node, ast.Name):
        return node.id in _LOOK
    if isinstance(node, ast.Attribute):
        function = isinstance(node.value, ast.Name) and node.value.id in own  # ``calc.add`` changes nothing by its name
        changes = not isinstance(node.ctx, ast.Load) or (node.attr in _CHANGE and not function)
        return changes or node.attr.startswith("__") or node.attr in _SEE or node.attr in _SEE_LOGS
    if isinstance(node, ast.Subscript):
        return not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.AugAssign):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign):
        part = node.value
        return isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name)  # a part that its whole still has
    if isinstance(node, ast.Compare):
        sides = zip(node.ops, node.comparators, strict=True)
        return any(isinstance(how, ast.Is | ast.IsNot) and not isinstance(side, ast.Constant) for how, side in sides)
    if isinstance(node, ast.Call):
        return _name(node.func) not in _OF_PYTEST and _shares(node)
    return isinstance(node, ast.Global | ast.Nonlocal | ast.ClassDef) and not _is_group(node)


def _is_group(node: ast.AST) -> bool:
    """A class of tests that is derived from nothing of the repository's."""
    return isinstance(node, ast.ClassDef) and all(_name(base) == "TestCase" for base in node.bases)


def _shares(call: ast.Call) -> bool:
    """Whether what a test holds is given where a change of it does not come back: by name, or within another thing."""
    within = [argument for argument in call.args if isinstance(argument, ast.List | ast.Tuple | ast.Dict | ast.Set)]
    named = [keyword.value for keyword in call.keywords]
    starred = [argument for argument in call.args if isinstance(argument, ast.Starred)]
    return any(map(_holds_name, (*within, *named, *starred)))


def _holds_name(node: ast.AST) -> bool:
    """Whether a name is in it, but for what a call makes."""
    if isinstance(node, ast.Call):
        return False
    return isinstance(node, ast.Name) or any(map(_holds_name, ast.iter_child_nodes(node)))
