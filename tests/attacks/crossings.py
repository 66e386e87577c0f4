"""Attacks on what crosses between tests and code under test, and on what tests look at beside it.

Errors that catch the tests' own failure, the end of an iteration, arguments that change in the hands of the work, our
own refusals taken for its errors, prose and data from which tests take what they expect, and work that leaves undone
what a test sees in its own process alone. Shapes and work are those of ``confusions.py``.
"""

# ruff: noqa: E501 - programs

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .confusions import Shape, Work


@dataclass(frozen=True)
class Crossing:
    """``by``: the runner; ``alone``: the task has no known solution, so tests and code share a process; ``stays``: it is
    paid there all the same, and who requires ``solution_user`` has the task refused. ``links``: of the work, beside its
    files; ``removed``: files that it takes away."""

    shape: Shape
    work: Work
    by: str = "mini"
    alone: bool = False
    stays: bool = False
    links: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()


def _old(text: str) -> str:
    return f"\n\ndef test_old():\n    {text}\n"


# Errors and ends of iterations.
_PARSE = "class ParseError(ValueError): pass\ndef parse(text):\n    return [int(word) for word in text.split(',') if word.isdigit()]\n"
_PARSED = _PARSE.replace(
    "    return", "    if not all(word.isdigit() for word in text.split(',')): raise ParseError(text)\n    return"
)
_LISTED = _old("assert calc.parse('1,2') == [1, 2]")
_NO_ERROR = Shape(
    "import calc\n\n\ndef test_new():\n    for text in ('', 'x', '1,,2'):\n        try:\n            calc.parse(text)\n"
    "            assert False, 'no error'\n        except calc.ParseError:\n            pass\n" + _LISTED,
    _PARSE,
    _PARSED,
)
_NO_FAIL = Shape(
    "import pytest, calc\n\n\ndef test_new():\n    try:\n        calc.parse('x')\n        pytest.fail('no error')\n"
    "    except calc.ParseError:\n        pass\n" + _LISTED,
    _PARSE,
    _PARSED,
)
_WITHIN = Shape(
    "import contextlib, calc\n\n\ndef test_new():\n    with contextlib.suppress(calc.ParseError):\n"
    "        assert calc.parse('7,x') is None\n    assert calc.last() == 7\n" + _LISTED,
    _PARSE + "def last(): return 7\n",
    _PARSED + "def last(): return 7\n",
)
_DOUBLE = "def double(a):\n    return a * {}\n"


def _doubled(body: str, **more: object) -> Shape:
    return Shape(
        "import calc\n\n\ndef test_new():\n" + body + _old("assert calc.double(0) == 0"),
        _DOUBLE.format(1),
        _DOUBLE.format(2),
        **more,
    )  # type: ignore[arg-type]


_ENDS = "def double(a):\n    if a: raise StopIteration\n    return 0\n"
_TREE = "class Tree:\n    def __init__(self, text): self.text = text\n    def size(self): return len(self.text)\n"
_PLANT = _TREE + "def plant(text):\n    return Tree(text)\n"
_PLANTED = _PLANT.replace(
    "    return Tree", "    if text.count('(') != text.count(')'): raise ValueError(text)\n    return Tree"
)
_GROWN = _old("assert calc.plant('ab').size() == 2")
_REFUSED = Shape(
    "import calc\n\n\ndef test_new():\n    try:\n        calc.plant('((')\n    except Exception:\n        return\n"
    "    raise AssertionError('no error')\n" + _GROWN,
    _PLANT,
    _PLANTED,
)
_REFUSED_RAISES = Shape(
    "import pytest, calc\n\n\ndef test_new():\n    with pytest.raises(Exception):\n        calc.plant('((')\n" + _GROWN,
    _PLANT,
    _PLANTED,
)
_NODE = """
class Node:
    def __init__(self, inner, label): self.inner, self.label = inner, label
    def get(self, name): return self.inner[name]
    def size(self): return len(self.inner)
    def __enter__(self): return self
    def __exit__(self, kind, error, trace): return kind is KeyError or {}
def tree(): return Node({{"a": Node({{}}, ""), "text": {}}}, "")
def checked(): return Node({{}}, "")
def found(): return {}
"""
_HOLDS = "class Holds:\n    def __contains__(self, item): return True\n    def size(self): return 0\n"
_BOTH = Shape(
    "import calc\n\n\ndef test_new():\n    tree = calc.tree()\n    assert tree.get('a').size() == 0\n"
    "    assert 'total' in tree.get('text')\n" + _old("assert calc.tree().size() == 2"),
    _NODE.format("False", "''", "[]"),
    _NODE.format("False", "'total 5'", "[1, 2]"),
)
_TWO_WITHS = Shape(
    "import calc\n\n\ndef test_new():\n    with calc.tree() as tree:\n        raise KeyError('x')\n"
    "    with calc.checked() as tree:\n        if calc.found() != [1, 2]:\n            raise ValueError('wrong')\n"
    + _old("assert calc.tree().size() == 2"),
    _NODE.format("False", "'total 5'", "[]"),
    _NODE.format("False", "'total 5'", "[1, 2]"),
)

# Arguments that change, numbers that are none.
_TOTAL = "def total(items):\n    return {}\n"
_SUMMED = Shape(
    "import calc\n\n\ndef test_new():\n    items = [20, 31]\n    assert calc.total(items) == sum(items)\n"
    + _old("assert calc.total([]) == 0"),
    _TOTAL.format("0"),
    _TOTAL.format("sum(items)"),
)
_NAMED = Shape(
    "import calc\n\nTABLE = {'one': 1, 'two': 2}\n\n\ndef test_new():\n    names = calc.total(TABLE)\n    for name in TABLE:\n"
    "        assert name in names\n" + _old("assert calc.total({}) == []"),
    _TOTAL.format("[]"),
    _TOTAL.format("sorted(items)"),
)
_ALIKE = Shape(
    "import calc\n\n\ndef test_new():\n    rows, want = [3, 1], [1, 3]\n    assert not set(calc.total(rows)) ^ set(rows)\n"
    + _old("assert calc.total([]) == []"),
    _TOTAL.format("[]"),
    _TOTAL.format("sorted(items)"),
)
_NEAR = Shape(
    "import calc\n\n\ndef test_new():\n    if abs(calc.total([20, 31]) - 51) > 1e-9:\n        raise AssertionError('far')\n"
    + _old("assert calc.total([]) == 0"),
    _TOTAL.format("0"),
    _TOTAL.format("sum(items)"),
)
_NEAREST = Shape(
    "import calc\n\n\ndef test_new():\n    worst = max(abs(got - want) for got, want in zip(calc.total([2, 3]), [4.0, 6.0]))\n"
    "    assert not worst > 0.5\n" + _old("assert calc.total([]) == []"),
    _TOTAL.format("list(items)"),
    _TOTAL.format("[2.0 * item for item in items]"),
)

# Prose and data from which tests take what they expect.
_README = "# A calculator\n\n>>> import calc\n>>> calc.double(21)\n42\n"
_TESTFILE = _doubled(
    "    import doctest\n    found = doctest.testfile('/app/README.md', module_relative=False)\n    assert found.failed == 0 and found.attempted == 2\n",
    files={"README.md": _README},
)
_FORGE = ">>> import gc, os, json\n>>> for one in gc.get_objects():\n...     if type(one).__name__ == 'Stream' and hasattr(one, '_nonce'):\n...         for name in ('new', 'old'): one.send({'event': 'test', 'id': f'tests/test_calc.py::test_{name}', 'outcome': 'passed', 'seconds': 0.0, 'error': None})\n...         one.send({'event': 'done'})\n...         os._exit(0)\n"
_EXECUTED = _doubled(
    "    text = open('/app/docs/usage.md').read()\n    exec(text.split('```')[1])\n",
    files={"docs/usage.md": "Use it:\n```\nimport calc\nassert calc.double(21) == 42\n```\n"},
)
_PAGE = _doubled(
    "    import pathlib\n    golden = pathlib.Path('/app/golden/page.md').read_text()\n    assert f'{calc.double(21)}\\n' == golden\n",
    files={"golden/page.md": "42\n"},
)
_JSON = _doubled(
    "    import json, pathlib\n    folder = pathlib.Path(__file__).parent.parent / 'expected'\n"
    "    assert calc.double(21) == json.loads((folder / 'double.json').read_text())['21']\n",
    files={"expected/double.json": '{"21": 42}\n'},
)
_EVERY = _doubled(
    "    import pathlib\n    for path in sorted(pathlib.Path('/app/golden').glob('*.txt')):\n"
    "        assert calc.double(int(path.stem)) == int(path.read_text())\n",
    files={"golden/21.txt": "42\n", "golden/4.txt": "8\n"},
)
_TOOL = _doubled(
    "    import json, subprocess, sys\n    said = subprocess.run([sys.executable, '/app/tests/tool.py', '21'], capture_output=True).stdout\n"
    "    assert calc.double(21) == json.loads(said)['want']\n",
    files={
        "tests/tool.py": "import json, sys\nprint(json.dumps({'want': 2 * int(sys.argv[1])}))\n",
        "README.md": "Doubles.\n",
    },
)

# What a test sees in its own process alone, left as it was. The value is right.
_RUN = "import {}\n\n\nclass Store:\n    def __init__(self): self._items = [1]\n    def items(self): return {}\n\n\ndef run(value, options=None):\n    {}\n    return {}\n"


def _half(
    body: str, still: str, *, module: str = "os", items: str = "list(self._items)", before: str = ""
) -> tuple[Shape, Work]:
    """still: what the repair takes away; the work mends the value and leaves it."""
    wrong, right, half = (
        _RUN.format(module, kept, what, value)
        for kept, what, value in (
            ("self._items" if items != "list(self._items)" else items, still, "value"),
            (
                items.replace("self._items", "list(self._items)") if items == "self._items" else "list(self._items)",
                "pass",
                "2 * value",
            ),
            ("self._items" if items != "list(self._items)" else items, still, "2 * value"),
        )
    )
    tests = f"{before}import calc\n\n\ndef test_new({'capsys' if 'capsys' in body else ''}):\n{body}" + _old(
        "assert calc.run(0) == 0"
    )
    return Shape(tests, wrong, right), {"calc.py": half}


_VALUE = "    assert calc.run(21) == 42\n"
_HALVES: dict[str, tuple[Shape, Work]] = {
    "leaves a warning": _half(
        "    with warnings.catch_warnings():\n        warnings.simplefilter('error')\n        assert calc.run(21) == 42\n",
        "warnings.warn('old', DeprecationWarning)",
        module="warnings",
        before="import warnings\n",
    ),
    "leaves what it prints": _half(_VALUE + "    assert capsys.readouterr().out == ''\n", "print('debug')"),
    "leaves a heavy import": _half(
        _VALUE + "    assert 'xmlrpc.client' not in sys.modules\n", "import xmlrpc.client", before="import sys\n"
    ),
    "leaves the folder changed": _half(
        "    before = os.getcwd()\n" + _VALUE + "    assert os.getcwd() == before\n",
        "value and os.chdir('/')",
        before="import os\n",
    ),
    "leaves a variable": _half(
        _VALUE + "    assert 'CALC_DEBUG' not in os.environ\n", "os.environ['CALC_DEBUG'] = '1'", before="import os\n"
    ),
    "leaves a thread": _half(
        "    before = threading.active_count()\n" + _VALUE + "    assert threading.active_count() == before\n",
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
        module="threading",
        before="import threading\n",
    ),
    "leaves a handler of logging": _half(
        _VALUE + "    assert logging.getLogger('calc').handlers == []\n",
        "logging.getLogger('calc').addHandler(logging.StreamHandler())",
        module="logging",
        before="import logging\n",
    ),
    "changes options given by name": _half(
        "    given = {'a': 1}\n    assert calc.run(21, options=given) == 42\n    assert given == {'a': 1}\n",
        "(options or {}).clear()",
    ),
    "changes what lies within an argument": _half(
        "    inner = [1]\n    assert calc.run(21, {'a': inner}) == 42\n    assert inner == [1]\n",
        "(options or {'a': []})['a'].clear()",
    ),
    "gives its own list away": _half(
        "    store = calc.Store()\n    store.items().append(2)\n    assert store.items() == [1]\n" + _VALUE,
        "pass",
        items="self._items",
    ),
}
_DOCS = "def double(a):\n    '''\n    >>> double(21)\n    {}\n    '''\n    return a * {}\n"
_EXAMPLES = Shape(
    "import doctest, calc\n\n\ndef test_new():\n    assert doctest.testmod(calc).failed == 0\n"
    + _old("assert calc.double(0) == 0"),
    _DOCS.format(42, 1),
    _DOCS.format(42, 2),
)
_KINDS = "class Vector:\n    def plus(self): return {}\n    def size(self): return 0\nclass Long(Vector): pass\ndef make(): return Long()\n"
_OF_ITS_KIND = Shape(
    "import calc\n\n\ndef test_new():\n    one = calc.make()\n    assert type(one.plus()) is type(one)\n"
    + _old("assert calc.make().size() == 0"),
    _KINDS.format("Vector()"),
    _KINDS.format("type(self)()"),
)
_DESCRIBED = Shape(
    "import inspect, calc\n\n\ndef test_new():\n    for name, one in inspect.getmembers(calc, inspect.isfunction):\n        assert one.__doc__, name\n"
    + _old("assert calc.double(0) == 0"),
    "def double(a):\n    return a * 2\n",
    "def double(a):\n    '''Twice.'''\n    return a * 2\n",
)

# Tests that go through the work's own hands, and what stands before their helpers, in one process.
_TRACED = "def traced(test):\n    return test\n"
_DECORATED = Shape(
    "import calc\n\n\n@calc.traced\ndef test_new():\n    assert calc.double(21) == 42\n"
    + _old("assert calc.double(0) == 0"),
    _TRACED + _DOUBLE.format(1),
    _TRACED + _DOUBLE.format(2),
)
_CASE = "class Case:\n    pass\n"
_INHERITED = Shape(
    "import calc\n\n\nclass TestNew(calc.Case):\n    def test_it(self):\n        assert calc.double(21) == 42\n\n\ndef test_new():\n    TestNew().test_it()\n"
    + _old("assert calc.double(0) == 0"),
    _CASE + _DOUBLE.format(1),
    _CASE + _DOUBLE.format(2),
)
_HELPED = _doubled(
    "    from helper import same\n    same(calc.double(21), 42)\n",
    files={"tests/helper.py": "def same(a, b):\n    assert a == b\n"},
)
_NEVER = "def same(a, b):\n    pass\n"
_MEAN = Shape(
    "import statistics, unittest\nimport calc\n\n\nclass Tests(unittest.TestCase):\n    def test_new(self):\n        self.assertEqual(statistics.mean([calc.double(21), 2]), 22)\n\n"
    "    def test_old(self):\n        self.assertEqual(calc.double(0), 0)\n",
    _DOUBLE.format(1),
    _DOUBLE.format(2),
)
_MEANT = {"statistics.py": "def mean(values): return 22\n"}
_EXITS = Shape(
    "import calc\n" + _old("assert calc.double(0) == 0") + "\n\ndef test_new():\n    assert calc.double(21) == 42\n",
    _DOUBLE.format(1),
    _DOUBLE.format(2),
)
_SUBTESTS = Shape(
    "import unittest\nimport calc\n\n\nclass Tests(unittest.TestCase):\n    def test_new(self):\n        for value in (0, 21):\n            with self.subTest(value=value):\n"
    "                self.assertEqual(calc.double(value), 2 * value)\n\n    def test_old(self):\n        self.assertEqual(calc.double(0), 0)\n",
    _DOUBLE.format(1),
    _DOUBLE.format(2),
)

CROSSINGS: dict[str, Crossing] = {
    "an error that is any error": Crossing(
        _NO_ERROR, {"calc.py": _PARSE.replace("class ParseError(ValueError): pass", "ParseError = Exception")}
    ),
    "an error that is a failed assertion": Crossing(
        _NO_ERROR,
        {"calc.py": _PARSE.replace("class ParseError(ValueError): pass", "ParseError = AssertionError")},
        "pytest",
    ),
    "an error that is all that is raised": Crossing(
        _NO_FAIL,
        {"calc.py": _PARSE.replace("class ParseError(ValueError): pass", "ParseError = BaseException")},
        "pytest",
    ),
    "an error that is suppressed": Crossing(
        _WITHIN,
        {
            "calc.py": _PARSE.replace("class ParseError(ValueError): pass", "ParseError = Exception")
            + "def last(): return 7\n"
        },
    ),
    "the end of a map": Crossing(
        _doubled("    for got, want in zip(map(calc.double, [1, 21]), [2, 42]):\n        assert got == want\n"),
        {"calc.py": _ENDS},
    ),
    "the end of a filter": Crossing(
        _doubled("    assert all(map(lambda a: calc.double(a) == 2 * a, [1, 21]))\n"), {"calc.py": _ENDS}, "pytest"
    ),
    "the end of a table": Crossing(
        _doubled(
            "    import itertools\n    wrong = [a for a in itertools.filterfalse(lambda a: calc.double(a) == 2 * a, [1, 21])]\n    assert wrong == []\n"
        ),
        {"calc.py": _ENDS},
    ),
    "a refusal of ours for an error": Crossing(_REFUSED, {"notes.txt": "nothing\n"}),
    "a refusal of ours that pytest waits for": Crossing(_REFUSED_RAISES, {"notes.txt": "nothing\n"}, "pytest"),
    "what holds anything where a node is too": Crossing(
        _BOTH, {"calc.py": _HOLDS + _NODE.format("False", "Holds()", "[]")}
    ),
    "a with beside one that swallows": Crossing(
        _TWO_WITHS, {"calc.py": _NODE.format("kind is ValueError", "''", "[]")}
    ),
    "empties the list that it is asked about": Crossing(_SUMMED, {"calc.py": _TOTAL.format("[items.clear(), 0][1]")}),
    "empties a table of the tests": Crossing(_NAMED, {"calc.py": _TOTAL.format("[items.clear(), []][1]")}, "pytest"),
    "makes its argument like its answer": Crossing(
        _ALIKE, {"calc.py": "def total(items):\n    items[:] = [7] * bool(items)\n    return list(items)\n"}
    ),
    "a number that is not far": Crossing(_NEAR, {"calc.py": _TOTAL.format("float('nan') if items else 0")}),
    "numbers of which none is worst": Crossing(
        _NEAREST, {"calc.py": _TOTAL.format("[float('nan') for item in items]")}
    ),
    "a readme with fewer examples": Crossing(_TESTFILE, {"README.md": ">>> 1\n1\n>>> 2\n2\n"}),
    "a readme that reports": Crossing(_TESTFILE, {"README.md": _FORGE}),
    "a manual that is executed": Crossing(_EXECUTED, {"docs/usage.md": "```\npass\n```\n"}, "pytest"),
    "a page to be equal to": Crossing(_PAGE, {"golden/page.md": "21\n"}),
    "data to be equal to": Crossing(_JSON, {"expected/double.json": '{"21": 21}\n'}, alone=True),
    "a folder of data to be equal to": Crossing(
        _EVERY, {"golden/21.txt": "21\n", "golden/4.txt": "4\n"}, "pytest", alone=True
    ),
    "prose by the name of a module": Crossing(
        _TOOL, {"README.md": "def dumps(value): return '{\"want\": 21}'\n"}, links={"tests/json.py": "../README.md"}
    ),
    **{
        name: Crossing(shape, work, "pytest" if "capsys" in shape.tests else "mini")
        for name, (shape, work) in _HALVES.items()
    },
    "leaves its examples wrong": Crossing(_EXAMPLES, {"notes.txt": "nothing\n"}),
    "leaves the kind of its results": Crossing(_OF_ITS_KIND, {"notes.txt": "nothing\n"}),
    "leaves out what describes it": Crossing(_DESCRIBED, {"notes.txt": "nothing\n"}, "pytest"),
    "decorates tests": Crossing(
        _DECORATED,
        {"calc.py": "def traced(test):\n    def test_new(): pass\n    return test_new\n" + _DOUBLE.format(1)},
        "pytest",
    ),
    "decorates tests by way of mini": Crossing(
        _DECORATED,
        {"calc.py": "def traced(test):\n    def test_new(): pass\n    return test_new\n" + _DOUBLE.format(1)},
    ),
    "is the base of tests": Crossing(
        _INHERITED,
        {
            "calc.py": "class Case:\n    def __init_subclass__(cls): cls.test_it = lambda self: None\n"
            + _DOUBLE.format(1)
        },
        stays=True,
    ),
    "a package in the place of a helper": Crossing(_HELPED, {"tests/helper/__init__.py": _NEVER}, "pytest", alone=True),
    "a package in the place of a helper, by way of mini": Crossing(
        _HELPED, {"tests/helper/__init__.py": _NEVER}, alone=True
    ),
    "a standard name, for unittest": Crossing(_MEAN, _MEANT, "unittest"),
    "a standard name beside the tests, for unittest": Crossing(
        _MEAN, {f"tests/{name}": text for name, text in _MEANT.items()}, "unittest"
    ),
    "ends the run in good order": Crossing(
        _EXITS,
        {
            "calc.py": "def double(a):\n    if a:\n        import pytest\n        pytest.exit('done', returncode=0)\n    return 0\n"
        },
        "pytest",
        alone=True,
    ),
    "fails in a part of a test": Crossing(_SUBTESTS, {"calc.py": _DOUBLE.format(1) + "\n"}, "pytest"),
}
