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
        *("random", "typing", "enum", "uuid", "textwrap", "statistics", "unittest", "pytest", "__future__"),
    }
)
"""Of which nothing tells what happens in a process."""
_LOOK = frozenset(
    {
        *("type", "vars", "dir", "id", "globals", "locals", "open", "exec", "eval", "compile", "getattr", "hasattr"),
        *("setattr", "delattr", "callable", "super", "issubclass", "memoryview", "__import__", "breakpoint", "shuffle"),
    }
)
_CHANGE = frozenset(
    {
        *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "update", "add", "discard"),
        *("setdefault", "popitem", "appendleft", "extendleft", "popleft", "write", "send", "throw", "close", "shuffle"),
    }
)
_SEE = frozenset({"warns", "deprecated_call", "filterwarnings", "assertWarns", "assertWarnsRegex", "mock"})
_SEE_BY_NAME = frozenset({"getfixturevalue", "MonkeyPatch", "abc"})
_SEE_LOGS = frozenset({"assertLogs", "assertNoLogs", "importorskip", "assertIs", "assertIsNot"})
_IS_INSTANCE = frozenset({"isinstance", "assertIsInstance", "assertNotIsInstance"})
_OF_PYTEST = frozenset({"parametrize", "approx", "raises", "fixture", "param", "isclose", "field", "dataclass"})
_KINDS = frozenset({"typing", "collections", "abc", "numbers"})
"""Modules whose classes are what an object can do: one that stands for another can do all."""
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
    if any(_takes_other(function, given) for function in functions if _is_given(function)):
        return True
    if any(_keeps(function.body, own) for function in functions):
        return True
    # A variable of that name is no module, and what it does may change what was handed out.
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    kinds = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _KINDS
        for alias in node.names
    }
    return any(_node_looks(node, own - named) or _asks_for_kind(node, kinds) for node in ast.walk(tree))


def _is_given(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether what a function takes are fixtures: those of tests, and of fixtures themselves."""
    return function.name.startswith("test") or any("fixture" in ast.unparse(one) for one in function.decorator_list)


def _asks_for_kind(node: ast.AST, kinds: Collection[str]) -> bool:
    """Whether something can be gone through, counted, called and so on."""
    if not (isinstance(node, ast.Call) and _name(node.func) in _IS_INSTANCE and len(node.args) > 1):
        return False
    names = {one.id for one in ast.walk(node.args[1]) if isinstance(one, ast.Name)}
    return not names.isdisjoint(_KINDS | frozenset(kinds))


def _keeps(body: list[ast.stmt], own: Collection[str]) -> bool:
    """Whether something is kept that a call gave, while another thing is told to do something, and is looked at then: a
    list that was not copied would have changed; or whether that is done while it is gone through."""
    kept: dict[str, bool] = {}
    for statement in body:
        if isinstance(statement, ast.For) and _goes_through(statement.iter) and any(map(_does, ast.walk(statement))):
            return True
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.ListComp):
            return True  # for what it does, like a loop
        read = {one.id for one in ast.walk(statement) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}
        if any(changed and name in read for name, changed in kept.items()):
            return True
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call | ast.Attribute):
            new = {target.id: False for target in statement.targets if isinstance(target, ast.Name)}
        else:
            new = {}
        if _does(statement) or any(_is_told(one, own) for one in ast.walk(statement)):
            kept = {name: changed or name not in read for name, changed in kept.items()}
        kept |= new
        if any(_keeps(inner, own) for inner in (getattr(statement, "body", []), getattr(statement, "orelse", []))):
            return True
    return False


def _is_told(node: ast.AST, own: Collection[str]) -> bool:
    """Whether it is a call of an object's method, by the object's name."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    of = node.func.value
    return isinstance(of, ast.Name) and of.id not in own and of.id not in ("self", "pytest", *_MODULES)


def _goes_through(iterated: ast.expr) -> bool:
    """Whether it may be a list of the work's, and no numbers nor what is written there."""
    counted = _name(getattr(iterated, "func", iterated)) in ("range", "enumerate", "zip")
    return not counted and not isinstance(iterated, ast.Constant | ast.Tuple | ast.List)


def _does(statement: ast.AST) -> bool:
    """Whether it calls something for what that does, not for what it gives."""
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return False
    name = _name(statement.value.func)
    return not name.startswith("assert") and name not in ("fail", "skip", "print")


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
        return not known or not taken.isdisjoint({"mock", "shuffle"}) or "mock" in (node.module or "")
    if isinstance(node, ast.Name):
        return node.id in _LOOK
    if isinstance(node, ast.Attribute):
        function = isinstance(node.value, ast.Name) and node.value.id in own  # ``calc.add`` changes nothing by its name
        changes = not isinstance(node.ctx, ast.Load) or (node.attr in _CHANGE and not function)
        return changes or node.attr.startswith("__") or node.attr in _SEE | _SEE_LOGS | _SEE_BY_NAME
    if isinstance(node, ast.Subscript):
        return not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.AugAssign):
        value = node.value  # a list times two, or with the letters of a text, is the same list
        return (
            not isinstance(value, ast.Constant) or isinstance(node.op, ast.Mult) or isinstance(value.value, str | bytes)
        )
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
