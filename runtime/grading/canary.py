"""Look-alike tests that no honest work passes: the same files, names and shapes, each with one statement made false.

A solution that passes one of them was not measured but has interfered: with comparison, with the runner, with its
report, or by reading what the tests expect. The spoiled copy runs in a fresh sandbox of its own under the same ids, so
that code under test cannot tell by name, number or order which of the two runs counts.

It knows Python's syntax and the shapes of pytest and unittest; it does not run anything.
"""

from __future__ import annotations

import ast
import builtins
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

_OTHER_FIRST = {
    "assertTrue": "not ({})",
    "assertFalse": "not ({})",
    "assertIs": "[{}]",
    "assertIsNone": "[{}]",
    "assertIsNotNone": "[{}] and None",
    "assertIn": "[{}]",
}
"""What is asked of another thing than the test's, by the same name: who has patched ``assertTrue`` away shows it."""
_ALIKE = {
    "assertNotEqual": "*[{}] * 2",
    "assertIsNot": "*[{}] * 2",
    "assertNotIn": "*(lambda one: (one, [one]))({})",
}
"""What stands for both that are compared, of the first."""
_OTHER_SECOND = frozenset(
    f"assert{name}"
    for name in (
        *("AlmostEqual", "NotAlmostEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "Regex", "NotRegex"),
        *("CountEqual", "ListEqual", "TupleEqual", "DictEqual", "SetEqual", "SequenceEqual", "MultiLineEqual"),
        *("IsInstance", "NotIsInstance"),
    )
)
_UNPREDICTABLE = ("xfail", "skip", "flaky", "repeat", "retry", "rerun", "given", "expectedFailure")
_KNOWN_DECORATORS = ("pytest.mark.", "mark.", "parametrize(", "patch", "mock.patch", "unittest.mock.patch")
_TOLERANT = ("approx", "ANY", "close", "lmost")
"""Words for values that equal more than one: next to them no literal is certainly wrong."""
_OTHER = "[{}, None]"
"""Another thing than what is in it, also for arrays, which a list of one would equal."""
_MAX_NUMBER = 1 << 62
_OTHER_ERRORS = ("BlockingIOError", "ProcessLookupError", "UnicodeEncodeError", "StopAsyncIteration")
"""Names of real exceptions, to stand where another one is expected."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Canary:
    """``files``: path below the work directory -> spoiled content. ``ids``: expected ids that honest work now fails."""

    files: Mapping[str, bytes]
    ids: tuple[str, ...]


def spoil(
    sources: Mapping[str, bytes], ids: Iterable[str], seed: int, *, share: float = 1.0, tried: bool = False
) -> Canary:
    """A spoiled copy of the test files ``sources`` (path -> content) that the test ids name.

    Tests whose end is not certain (expected failures, retries, generated inputs) are left as they are, and so are files
    that do not parse, and tests on which others stand: spoiled, they would fail those too. share: of the tests that can
    be spoiled, drawn one by one. tried: the known solution will be tried on them, so that decorators may be any that do
    not say of themselves that they retry or skip. ``Canary.ids`` is empty when nothing was spoiled.
    """
    draw = random.Random(seed)
    names: dict[str, dict[str, list[str]]] = {}
    for test_id in ids:
        file, _, rest = test_id.partition("::")
        if rest:
            names.setdefault(file, {}).setdefault(rest.partition("[")[0], []).append(test_id)
    files: dict[str, bytes] = {}
    spoiled: list[str] = []
    used = frozenset[str]().union(*(_used(source) for file, source in sources.items() if file.endswith(".py")))
    for file, every in sorted(names.items()):
        alone = {name: of for name, of in every.items() if used.isdisjoint({*name.split("::"), _everything(file)})}
        wanted = {name: of for name, of in alone.items() if draw.random() < share}
        source = sources.get(file)
        if source is None or not wanted:
            continue
        content, done = _spoil_file(source, wanted, draw, tried=tried)
        if done:
            files[file] = content
            spoiled += [test_id for name in done for test_id in wanted[name]]
    return Canary(files, tuple(spoiled))


_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What Python's parser ends in, or a walk over its tree: of what is nested too deep, in more than one way."""


@lru_cache(maxsize=1024)
def _used(source: bytes) -> frozenset[str]:
    """Names that a file calls, derives from, takes from elsewhere or speaks of in any other way but by defining them;
    of what it takes whole from a module, ``module.*``."""
    try:
        return frozenset(_names(ast.parse(source)))
    except _UNREADABLE:
        return frozenset()


def _names(tree: ast.Module) -> set[str]:
    # Not what the file does only as a program.
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test))]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            whole = f"{(node.module or '').rpartition('.')[2]}.*"
            found |= {whole if alias.name == "*" else alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)  # ``getattr(self, "test_x")``, ``@pytest.mark.dependency(depends=["test_x"])``
    return found


def _everything(file: str) -> str:
    return f"{PurePosixPath(file).stem}.*"


def spoil_all(source: bytes, seed: int) -> bytes | None:
    """Every test of one file spoiled, whatever its id; None when there is none or the file does not parse."""
    content, done = _spoil_file(source, None, random.Random(seed))
    return content if done else None


@dataclass(frozen=True)
class _Edit:
    start: int
    end: int
    text: bytes


def _spoil_file(
    source: bytes, wanted: Mapping[str, list[str]] | None, draw: random.Random, *, tried: bool = False
) -> tuple[bytes, list[str]]:
    try:
        return _spoiled(source, ast.parse(source), wanted, draw, tried=tried)
    except _UNREADABLE:
        return source, []


def _spoiled(
    source: bytes, tree: ast.Module, wanted: Mapping[str, list[str]] | None, draw: random.Random, *, tried: bool
) -> tuple[bytes, list[str]]:
    text = _Text(source)
    edits: list[_Edit] = []
    done: list[str] = []
    pool: list[object] = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and _is_plain(node)]
    for name, function in _tests(tree):
        if (wanted is None or name in wanted) and not _unpredictable(function, tried=tried):
            edits.append(_spoil_test(function, text, pool, draw))
            done.append(name)
    for edit in sorted(edits, key=lambda edit: -edit.start):
        source = source[: edit.start] + edit.text + source[edit.end :]
    try:
        compile(source, "<canary>", "exec", dont_inherit=True)
    except _UNREADABLE:
        return source, []  # an unusual layout; better no canary than a file that fails for every reason
    return source, done


def _tests(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """(``test_x`` or ``TestClass::test_x``, function). A name that is defined twice counts with its last definition."""
    found: dict[str, Function] = {}
    for node in tree.body:
        if isinstance(node, Function) and node.name.startswith("test"):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, Function) and inner.name.startswith("test"):
                    found[f"{node.name}::{inner.name}"] = inner
    yield from found.items()


def _unpredictable(function: Function, *, tried: bool) -> bool:
    """A decorator may run the test never, twice, or without telling of its failure."""
    texts = [ast.unparse(decorator) for decorator in function.decorator_list]
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(function)):
        return True
    known = tried or all(text.startswith(_KNOWN_DECORATORS) for text in texts)
    return not known or any(word in text for text in texts for word in _UNPREDICTABLE)


def _spoil_test(function: Function, text: _Text, pool: list[object], draw: random.Random) -> _Edit:
    """The one edit that makes an honest run of ``function`` fail."""
    candidates = list(_reached(function.body))
    draw.shuffle(candidates)
    for statement in candidates:
        edit = _spoil_statement(statement, text, pool, draw)
        if edit is not None:
            return edit
    return _add_statement(function, text, draw)


def _reached(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that every passing run executes: those of the function itself, up to the first ``return``.

    What is inside another statement is not among them: a context manager may swallow what comes before, a loop may
    have nothing to go over, and an exception may be what the test is about. A loop over what is written there has.
    """
    for statement in body:
        if isinstance(statement, ast.Assert | ast.Expr | ast.With):
            yield statement
        if isinstance(statement, ast.For) and _goes_over_something(statement.iter):
            yield from _reached(statement.body)
        if any(isinstance(node, ast.Return | ast.Break | ast.Continue) for node in ast.walk(statement)):
            return


def _goes_over_something(iterated: ast.expr) -> bool:
    if isinstance(iterated, ast.List | ast.Tuple | ast.Set):
        return any(not isinstance(one, ast.Starred) for one in iterated.elts)
    if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Attribute) and not iterated.args:
        table = iterated.func.value
        return (
            iterated.func.attr in ("items", "keys", "values")
            and isinstance(table, ast.Dict)
            and bool(table.keys)
            and None not in table.keys
        )
    return isinstance(iterated, ast.Dict) and bool(iterated.keys) and None not in iterated.keys


def _is_raises(expression: ast.expr) -> bool:
    return (
        isinstance(expression, ast.Call)
        and isinstance(expression.func, ast.Attribute)
        and expression.func.attr in ("raises", "assertRaises")
        and len(expression.args) == 1
        and isinstance(expression.args[0], ast.Name | ast.Attribute)
    )


def _is_below(name: str, expected: str) -> bool:
    """Whether an error that a test expects may be the other one: who lets ``UnicodeEncodeError`` out for a
    ``ValueError`` is right, and would pass both."""
    kind = getattr(builtins, expected, None)
    return isinstance(kind, type) and issubclass(getattr(builtins, name), kind)


def _spoil_statement(statement: ast.stmt, text: _Text, pool: list[object], draw: random.Random) -> _Edit | None:
    if isinstance(statement, ast.Assert):
        return _spoil_assert(statement, text, pool, draw)
    if isinstance(statement, ast.With) and len(statement.items) == 1:
        call = statement.items[0].context_expr
        if _is_raises(call):
            assert isinstance(call, ast.Call)
            expected = ast.unparse(call.args[0]).rpartition(".")[2]
            others = [name for name in _OTHER_ERRORS if not _is_below(name, expected)]
            return text.replace(call.args[0], draw.choice(others)) if others else None
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        given = [one for one in statement.value.args if not isinstance(one, ast.Starred)]
        if isinstance(function, ast.Attribute) and given and len(given) == len(statement.value.args):
            return _spoil_call(function.attr, given, text, pool, draw)
    return None


def _spoil_call(name: str, given: list[ast.expr], text: _Text, pool: list[object], draw: random.Random) -> _Edit | None:
    """A call of one of unittest's methods, with other arguments."""
    if name in _OTHER_FIRST:
        return text.replace(given[0], _OTHER_FIRST[name], keep=True)
    if len(given) < 2:
        return None
    if name == "assertEqual":
        return _spoil_equal(given[0], given[1], text, pool, draw)
    if name in _ALIKE:
        return text.replace(given[0], _ALIKE[name], keep=True, up_to=given[1])
    return text.replace(given[1], _OTHER, keep=True) if name in _OTHER_SECOND else None


def _spoil_assert(statement: ast.Assert, text: _Text, pool: list[object], draw: random.Random) -> _Edit:
    test = statement.test
    plainly = not any(word in ast.unparse(test) for word in _TOLERANT)
    if plainly and isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        return _spoil_equal(test.left, test.comparators[0], text, pool, draw)
    return text.replace(test, "not ({})", keep=True)


def _spoil_equal(left: ast.expr, right: ast.expr, text: _Text, pool: list[object], draw: random.Random) -> _Edit:
    for side in (right, left):
        if _is_plain(side):
            assert isinstance(side, ast.Constant)
            return text.replace(side, repr(_other(side.value, pool, draw)))
    # Equal to everything would be equal to this too, and what is equal to the expected value alone is not.
    return text.replace(right, _OTHER, keep=True)


def _is_plain(node: ast.AST) -> bool:
    """A literal whose neighbours are certainly different: numbers within reason and text."""
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return False
    if isinstance(node.value, int):
        return abs(node.value) < _MAX_NUMBER
    return isinstance(node.value, str)


def _other(value: object, pool: list[object], draw: random.Random) -> object:
    """Another value of the same type, where possible one that the tests themselves mention: a solution that equals
    everything the tests expect equals it too.
    """
    alike = sorted({item for item in pool if type(item) is type(value) and item != value}, key=repr)
    if alike and draw.random() < 0.5:
        return draw.choice(alike)
    if isinstance(value, int):
        return value + draw.choice((-3, -2, -1, 1, 2, 3, 7, 10))
    assert isinstance(value, str)
    return value + draw.choice("aeiourstln") if len(value) < 3 or draw.random() < 0.5 else value[:-1]


def _add_statement(function: Function, text: _Text, draw: random.Random) -> _Edit:
    """A false statement of its own, for tests without one that can be turned."""
    first, last = function.body[0], function.body[-1]
    left = draw.randrange(2, 40)
    right = draw.randrange(2, 40)
    false = f"assert {left} + {right} == {left + right + draw.choice((-2, -1, 1, 2))}"
    early = any(isinstance(node, ast.Return | ast.Yield | ast.Raise) for node in ast.walk(function))
    if not early and text.indent(first):
        end = text.offset(last.end_lineno, last.end_col_offset)
        return _Edit(end, end, f"\n{text.indent(first)}{false}".encode())
    at = text.offset(first.lineno, first.col_offset)
    if isinstance(first, Function | ast.ClassDef) and first.decorator_list:
        at = text.offset(first.decorator_list[0].lineno, first.decorator_list[0].col_offset) - 1
    return _Edit(at, at, f"{false}; ".encode() if _simple(first) else f"{false}\n{text.indent(first)}".encode())


def _simple(statement: ast.stmt) -> bool:
    """Whether another statement and a semicolon may stand before it on one line."""
    compound = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return not isinstance(statement, (*compound, ast.AsyncFor, ast.AsyncWith, ast.Match))


class _Text:
    """Positions of syntax nodes (line, UTF-8 column) as offsets into the source."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def offset(self, line: int | None, column: int | None) -> int:
        assert line is not None and column is not None
        return self._starts[line - 1] + column

    def indent(self, node: ast.stmt) -> str:
        line = self._source[self._starts[node.lineno - 1] : self.offset(node.lineno, node.col_offset)]
        return line.decode() if not line.strip() else ""

    def replace(self, node: ast.expr, replacement: str, *, keep: bool = False, up_to: ast.expr | None = None) -> _Edit:
        """keep: within the replacement, for ``{}``. up_to: another one, which is replaced too."""
        start, end = self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)
        old = self._source[start:end]
        end = end if up_to is None else self.offset(up_to.end_lineno, up_to.end_col_offset)
        if not keep:
            return _Edit(start, end, replacement.encode())
        # A statement may go on over several lines only within brackets, which the new ones provide.
        return _Edit(start, end, replacement.encode().replace(b"{}", old))
