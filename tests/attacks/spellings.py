"""Right work in other words: one small library, and what honest people may make of each of its parts.

``TESTS`` pass with the known solution and, in one plain process, with each of ``SPELLINGS``; so a verdict below 1 on one
of those is a fault of who judges. Each is a whole work: files that an agent leaves. It knows nothing of verdicts.
"""

# ruff: noqa: E501 - programs

from __future__ import annotations

from collections.abc import Iterator

from runtime.sandboxes.entries import Entry, Folder, Link, Program, Removed

PARTS = {
    "add": "def add(a, b):\n    return a + b\n",
    "errors": "class ParseError(ValueError):\n    pass\n\n\nclass LibraryError(Exception):\n    pass\n",
    "squares": "def squares(n):\n    for i in range(n):\n        yield i * i\n",
    "table": 'def table():\n    return {"a": 1, "b": [1, 2]}\n',
    "text": 'def text():\n    return "abc"\n',
    "data": 'def data():\n    return b"abc"\n',
    "number": "def number():\n    return 7\n",
    "pairs": 'def pairs():\n    return [(1, "a"), (2, "b")]\n',
    "rows": "def rows():\n    return [1, 2, 3]\n",
    "parse": 'def parse(text):\n    if not text.isdigit():\n        raise ParseError("bad: " + text)\n    return int(text)\n',
    "plain": 'def plain(text):\n    if not text.isascii():\n        raise ValueError("not plain")\n    return text\n',
    "lookup": "def lookup(name):\n    raise LibraryError(name)\n",
    "apply": "def apply(function, values):\n    return [function(value) for value in values]\n",
    "shout": "def shout(text):\n    return text.upper()\n",
    "stack": """class Stack:
    def __init__(self, *items):
        self.items = list(items)

    def push(self, item):
        self.items.append(item)
        return self

    def pop(self):
        return self.items.pop()

    @property
    def size(self):
        return len(self.items)

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)

    def __contains__(self, item):
        return item in self.items

    def __eq__(self, other):
        return isinstance(other, Stack) and self.items == other.items

    def __repr__(self):
        return f"Stack({self.items})"
""",
    "make": "def make(*items):\n    return Stack(*items)\n",
}
"""Of the known solution; the broken library has another ``add``."""

TESTS = """import calc
import pytest
from calc import Stack, shout


def test_add():
    assert calc.add(2, 3) == 5
    assert calc.add("a", "b") == "ab"


def test_squares():
    assert list(calc.squares(4)) == [0, 1, 4, 9]
    assert [n for n in calc.squares(3)] == [0, 1, 4]
    assert sum(calc.squares(3)) == 5


def test_table():
    assert calc.table() == {"a": 1, "b": [1, 2]}
    assert calc.table()["a"] == 1


def test_text():
    assert calc.text() == "abc"


def test_data():
    assert calc.data() == b"abc"


def test_number():
    assert calc.number() == 7
    assert calc.number() + 1 == 8


def test_pairs():
    assert calc.pairs() == [(1, "a"), (2, "b")]
    for number, name in calc.pairs():
        assert name == "ab"[number - 1]


def test_rows():
    found = []
    for row in calc.rows():
        found.append(row)
    assert found == [1, 2, 3]


def test_parse():
    assert calc.parse("12") == 12
    with pytest.raises(calc.ParseError):
        calc.parse("x")
    with pytest.raises(ValueError):
        calc.parse("x")


def test_plain():
    assert calc.plain("a") == "a"
    with pytest.raises(ValueError):
        calc.plain("\\u00e4")


def test_lookup():
    with pytest.raises(calc.LibraryError):
        calc.lookup("x")


def test_apply():
    assert calc.apply(lambda n: n + 1, [1, 2, 3, 4, 5]) == [2, 3, 4, 5, 6]
    seen = []
    calc.apply(seen.append, [1, 2])
    assert sorted(seen) == [1, 2]


def test_shout():
    assert shout("abc") == "ABC"
    assert calc.shout(text="abc") == "ABC" if False else calc.shout("b") == "B"


def test_stack():
    stack = Stack(1, 2)
    assert stack.push(3).size == 3
    assert stack.pop() == 3
    assert len(stack) == 2 and 1 in stack and list(stack) == [1, 2]
    assert repr(stack) == "Stack([1, 2])"
    assert stack == Stack(1, 2)
    assert stack != Stack(2)
    assert isinstance(stack, Stack)


def test_make():
    assert calc.make(1, 2).size == 2
    assert len(calc.make()) == 0
    assert calc.make(1) == calc.make(1)
"""
IDS = tuple(f"tests/test_calc.py::{line[4:-3]}" for line in TESTS.splitlines() if line.startswith("def test_"))

FIXED = "\n\n".join(PARTS.values())
BROKEN = FIXED.replace("return a + b", "return a - b")

_STACK = PARTS["stack"]
_SHOUT_CLASS = "class shout:\n    def __new__(cls, text):\n        return text.upper()\n"

OTHER_PARTS: dict[str, dict[str, str]] = {
    "squares": {
        "a list": "def squares(n):\n    return [i * i for i in range(n)]\n",
        "a map": "def squares(n):\n    return map(lambda i: i * i, range(n))\n",
        "an iterator": "class squares:\n    def __init__(self, n):\n        self.n, self.i = n, -1\n    def __iter__(self):\n        return self\n    def __next__(self):\n        self.i += 1\n        if self.i >= self.n:\n            raise StopIteration\n        return self.i ** 2\n",
        "an iterator behind a function": "class _Squares:\n    def __init__(self, n):\n        self.rest = [i * i for i in range(n)]\n    def __iter__(self):\n        return self\n    def __next__(self):\n        if not self.rest:\n            raise StopIteration\n        return self.rest.pop(0)\ndef squares(n):\n    return _Squares(n)\n",
        "an iterable": "class _Squares:\n    def __init__(self, n):\n        self.n = n\n    def __iter__(self):\n        return (i * i for i in range(self.n))\ndef squares(n):\n    return _Squares(n)\n",
        "a sequence": "from collections.abc import Sequence\nclass _Squares(Sequence):\n    def __init__(self, n):\n        self.n = n\n    def __len__(self):\n        return self.n\n    def __getitem__(self, i):\n        if i >= self.n:\n            raise IndexError(i)\n        return i * i\ndef squares(n):\n    return _Squares(n)\n",
        "a deque": "from collections import deque\ndef squares(n):\n    return deque(i * i for i in range(n))\n",
        "an array": "from array import array\ndef squares(n):\n    return array('q', (i * i for i in range(n)))\n",
        "takewhile": "import itertools\ndef squares(n):\n    return itertools.islice((i * i for i in itertools.count()), n)\n",
    },
    "table": {
        "ordered": 'from collections import OrderedDict\ndef table():\n    return OrderedDict([("a", 1), ("b", [1, 2])])\n',
        "default": 'from collections import defaultdict\ndef table():\n    found = defaultdict(list, a=1)\n    found["b"] += [1, 2]\n    return found\n',
        "user's": "from collections import UserDict\ndef table():\n    return UserDict(a=1, b=[1, 2])\n",
        "read only": 'from types import MappingProxyType\ndef table():\n    return MappingProxyType({"a": 1, "b": [1, 2]})\n',
        "a chain": 'from collections import ChainMap\ndef table():\n    return ChainMap({"a": 1}, {"b": [1, 2]})\n',
        "a mapping": "from collections.abc import Mapping\nclass _Table(Mapping):\n    def __init__(self, **of):\n        self.of = of\n    def __getitem__(self, name):\n        return self.of[name]\n    def __iter__(self):\n        return iter(self.of)\n    def __len__(self):\n        return len(self.of)\ndef table():\n    return _Table(a=1, b=[1, 2])\n",
        "derived": "class _Table(dict):\n    __slots__ = ()\n    def __missing__(self, name):\n        return None\ndef table():\n    return _Table(a=1, b=[1, 2])\n",
    },
    "text": {
        "derived": 'class _Text(str):\n    pass\ndef text():\n    return _Text("abc")\n',
        "user's": 'from collections import UserString\ndef text():\n    return UserString("abc")\n',
        "of an enumeration": 'import enum\nclass _Text(str, enum.Enum):\n    ABC = "abc"\ndef text():\n    return _Text.ABC\n',
    },
    "data": {
        "an array": 'def data():\n    return bytearray(b"abc")\n',
        "a view": 'def data():\n    return memoryview(b"abc")\n',
    },
    "number": {
        "of an enumeration": "import enum\nclass _Number(enum.IntEnum):\n    SEVEN = 7\ndef number():\n    return _Number.SEVEN\n",
        "a fraction": "from fractions import Fraction\ndef number():\n    return Fraction(14, 2)\n",
        "a decimal": "from decimal import Decimal\ndef number():\n    return Decimal(7)\n",
        "a float": "def number():\n    return 7.0\n",
    },
    "pairs": {
        "named": 'from collections import namedtuple\nPair = namedtuple("Pair", "number name")\ndef pairs():\n    return [Pair(1, "a"), Pair(2, "b")]\n',
        "typed": 'import typing\nclass Pair(typing.NamedTuple):\n    number: int\n    name: str\ndef pairs():\n    return [Pair(1, "a"), Pair(2, "b")]\n',
        "a list of the library's": 'class _Pairs(list):\n    pass\ndef pairs():\n    return _Pairs([(1, "a"), (2, "b")])\n',
        "a user's list": 'from collections import UserList\ndef pairs():\n    return UserList([(1, "a"), (2, "b")])\n',
    },
    "rows": {
        "a generator": "def rows():\n    yield from (1, 2, 3)\n",
        "a deque": "import collections\ndef rows():\n    return collections.deque([1, 2, 3])\n",
        "keys": "def rows():\n    return dict.fromkeys([1, 2, 3]).keys()\n",
        "an iterable": "class _Rows:\n    def __iter__(self):\n        return iter([1, 2, 3])\ndef rows():\n    return _Rows()\n",
        "by number": "class _Rows:\n    def __getitem__(self, place):\n        return [1, 2, 3][place]\ndef rows():\n    return _Rows()\n",
        "reversed twice": "def rows():\n    return reversed([3, 2, 1])\n",
    },
    "parse": {
        "another text": 'def parse(text):\n    if not text.isdigit():\n        raise ParseError(f"{text!r} is no number", 3)\n    return int(text)\n',
        "an error below": "class NotANumber(ParseError):\n    pass\ndef parse(text):\n    if not text.isdigit():\n        raise NotANumber(text)\n    return int(text)\n",
        "an error below an error below": "class _Number(ParseError):\n    pass\nclass NotANumber(_Number):\n    pass\ndef parse(text):\n    if not text.isdigit():\n        raise NotANumber(text)\n    return int(text)\n",
        "an error of two kinds": "class NotANumber(ParseError, LookupError):\n    pass\ndef parse(text):\n    if not text.isdigit():\n        raise NotANumber(text)\n    return int(text)\n",
        "with a cause": "def parse(text):\n    try:\n        return int(text)\n    except ValueError as error:\n        raise ParseError(*error.args) from error\n",
        "with an object": 'class _Place:\n    def __init__(self, text):\n        self.text = text\ndef parse(text):\n    if not text.isdigit():\n        raise ParseError("bad", _Place(text))\n    return int(text)\n',
        "with an object's attribute": 'class _Place:\n    def __init__(self, text):\n        self.text = text\ndef parse(text):\n    if not text.isdigit():\n        error = ParseError("bad")\n        error.place = _Place(text)\n        error.add_note("mind")\n        raise error\n    return int(text)\n',
        "with an error": "def parse(text):\n    try:\n        return int(text)\n    except ValueError as error:\n        raise ParseError(error)\n",
        "with a class": "def parse(text):\n    if not text.isdigit():\n        raise ParseError(int)\n    return int(text)\n",
        "with a function": "def parse(text):\n    if not text.isdigit():\n        raise ParseError(parse)\n    return int(text)\n",
        "with a constructor of its own": 'class NotANumber(ParseError):\n    def __init__(self, *, text):\n        super().__init__()\n        self.text = text\n    def __str__(self):\n        return f"bad: {self.text}"\ndef parse(text):\n    if not text.isdigit():\n        raise NotANumber(text=text)\n    return int(text)\n',
        "with context": "import contextlib\n@contextlib.contextmanager\ndef _telling():\n    try:\n        yield\n    except ValueError as error:\n        raise ParseError(str(error)) from None\ndef parse(text):\n    with _telling():\n        return int(text)\n",
    },
    "plain": {
        "by encoding": 'def plain(text):\n    text.encode("ascii")\n    return text\n',
        "by decoding": 'def plain(text):\n    return text.encode().decode("ascii")\n',
        "by json": "import json\ndef plain(text):\n    return json.loads(f'\"{text}\"' if text.isascii() else text)\n",
    },
    "lookup": {
        "an error below": "class Missing(LibraryError, KeyError):\n    pass\ndef lookup(name):\n    raise Missing(name)\n",
        "an error by dataclass": "import dataclasses\n@dataclasses.dataclass\nclass Missing(LibraryError):\n    name: str\ndef lookup(name):\n    raise Missing(name=name)\n",
        "a group": "def lookup(name):\n    try:\n        raise ExceptionGroup('all', [KeyError(name)])\n    except* KeyError:\n        pass\n    raise LibraryError(name)\n",
    },
    "apply": {
        "map": "def apply(function, values):\n    return list(map(function, values))\n",
        "by threads": "from concurrent.futures import ThreadPoolExecutor\ndef apply(function, values):\n    with ThreadPoolExecutor(4) as pool:\n        return list(pool.map(function, values))\n",
        "by asyncio": "import asyncio\ndef apply(function, values):\n    async def one(value):\n        await asyncio.sleep(0)\n        return function(value)\n    async def every():\n        return await asyncio.gather(*map(one, values))\n    return asyncio.run(every())\n",
        "wrapped": "import functools\ndef apply(function, values):\n    @functools.wraps(function)\n    def wrapped(value):\n        return function(value)\n    return [wrapped(value) for value in values]\n",
        "cached": "import functools\ndef apply(function, values):\n    cached = functools.lru_cache(maxsize=None)(function)\n    return [cached(value) for value in values]\n",
        "looked at": "import inspect\ndef apply(function, values):\n    try:\n        many = len(inspect.signature(function).parameters)\n    except ValueError:\n        many = 1\n    assert many == 1, many\n    return [function(value) for value in values]\n",
        "one by one": "def apply(function, values):\n    found = []\n    values = list(values)\n    i = 0\n    while i < len(values):\n        found.append(function(values[i]))\n        i += 1\n    return found\n",
        "by a list of the library's": "class _Found(list):\n    pass\ndef apply(function, values):\n    found = _Found()\n    for value in values:\n        found.append(function(value))\n    return found\n",
    },
    "shout": {
        "a method": "shout = str.upper\n",
        "a bound method": "class _Shouter:\n    def shout(self, text):\n        return text.upper()\nshout = _Shouter().shout\n",
        "a callable object": "class _Shout:\n    def __call__(self, text):\n        return text.upper()\nshout = _Shout()\n",
        "remembered by a class": "class remembered:\n    def __init__(self, function):\n        self.function, self.kept = function, {}\n    def __call__(self, *given):\n        if given not in self.kept:\n            self.kept[given] = self.function(*given)\n        return self.kept[given]\n@remembered\ndef shout(text):\n    return text.upper()\n",
        "cached": "import functools\n@functools.lru_cache\ndef shout(text):\n    return text.upper()\n",
        "partial": "import functools\ndef _change(how, text):\n    return getattr(text, how)()\nshout = functools.partial(_change, 'upper')\n",
        "a caller": "import operator\nshout = operator.methodcaller('upper')\n",
        "a class": _SHOUT_CLASS,
        "a text of its own": "class shout(str):\n    def __new__(cls, text):\n        return super().__new__(cls, text.upper())\n",
        "dispatched": "import functools\n@functools.singledispatch\ndef shout(text):\n    raise TypeError(text)\n@shout.register\ndef _(text: str):\n    return text.upper()\n",
        "a lambda": "shout = lambda text: text.upper()\n",
        "a closure": "def _maker(how):\n    def inner(text):\n        return getattr(text, how)()\n    return inner\nshout = _maker('upper')\n",
        "late": "def __getattr__(name):\n    if name != 'shout':\n        raise AttributeError(name)\n    return lambda text: text.upper()\n",
        "a meta class's call": "class _Meta(type):\n    def __call__(cls, text):\n        return text.upper()\nclass shout(metaclass=_Meta):\n    pass\n",
    },
    "stack": {
        "slots": _STACK.replace(
            "class Stack:\n", "class Stack:\n    __slots__ = ('items', '__weakref__')\n    __hash__ = None\n\n"
        ),
        "a dataclass": _STACK.replace(
            "class Stack:\n",
            "import dataclasses\n\n\n@dataclasses.dataclass(init=False, repr=False, eq=False)\nclass Stack:\n    items: list\n\n",
        ),
        "derived": "class Stack(list):\n    def __init__(self, *items):\n        super().__init__(items)\n    def push(self, item):\n        self.append(item)\n        return self\n    @property\n    def size(self):\n        return len(self)\n    def __repr__(self):\n        return f'Stack({list(self)})'\n",
        "a meta class": _STACK.replace(
            "class Stack:\n",
            "import abc\n\n\nclass _Meta(abc.ABCMeta):\n    made = 0\n    def __call__(cls, *given):\n        cls.made += 1\n        return super().__call__(*given)\n\n\nclass Stack(metaclass=_Meta):\n",
        ),
        "generic": _STACK.replace(
            "class Stack:\n", "import typing\n_T = typing.TypeVar('_T')\n\n\nclass Stack(typing.Generic[_T]):\n"
        ),
        "a base": _STACK.replace("class Stack:\n", "class _Base:\n").replace(
            "isinstance(other, Stack)", "isinstance(other, _Base)"
        )
        + "\n\nclass Stack(_Base):\n    pass\n",
        "cached size": _STACK.replace("    @property\n    def size", "    @_Size\n    def size").replace(
            "class Stack:\n",
            "class _Size:\n    def __init__(self, function):\n        self.function = function\n    def __get__(self, item, owner=None):\n        return self if item is None else self.function(item)\n\n\nclass Stack:\n",
        ),
        "methods by objects": _STACK.replace(
            "    def pop(self):\n        return self.items.pop()\n",
            "    @property\n    def pop(self):\n        import operator\n        return lambda: operator.methodcaller('pop')(self.items)\n",
        ),
        "methods that are objects": _STACK.replace(
            "    def pop(self):\n        return self.items.pop()\n",
            "    @property\n    def pop(self):\n        return _Pop(self.items)\n",
        )
        + "\n\nclass _Pop:\n    def __init__(self, items):\n        self.items = items\n    def __call__(self):\n        return self.items.pop()\n",
        "partial methods": _STACK.replace(
            "    def pop(self):\n        return self.items.pop()\n",
            "    def _take(self, place):\n        return self.items.pop(place)\n\n    import functools\n    pop = functools.partialmethod(_take, -1)\n",
        ),
        "delegated": _STACK.replace(
            "    def pop(self):\n        return self.items.pop()\n",
            "    def __getattr__(self, name):\n        if name.startswith('_') or name == 'items':\n            raise AttributeError(name)\n        return getattr(self.items, name)\n",
        ),
        "items by generator": _STACK.replace("        return iter(self.items)\n", "        yield from self.items\n"),
        "items by an iterator": _STACK.replace(
            "        return iter(self.items)\n", "        return _Walk(self.items)\n"
        )
        + "\n\nclass _Walk:\n    def __init__(self, items):\n        self.rest = list(items)\n    def __iter__(self):\n        return self\n    def __next__(self):\n        if not self.rest:\n            raise StopIteration\n        return self.rest.pop(0)\n",
        "linked": "class _Node:\n    def __init__(self, item, below):\n        self.item, self.below = item, below\n\n\nclass Stack:\n    def __init__(self, *items):\n        self._top = None\n        for item in items:\n            self.push(item)\n    @property\n    def size(self):\n        return sum(1 for _ in self)\n    def push(self, item):\n        self._top = _Node(item, self._top)\n        return self\n    def pop(self):\n        item, self._top = self._top.item, self._top.below\n        return item\n    def __iter__(self):\n        found, node = [], self._top\n        while node is not None:\n            found.append(node.item)\n            node = node.below\n        return reversed(found)\n    def __len__(self):\n        return sum(1 for _ in self)\n    def __eq__(self, other):\n        return isinstance(other, Stack) and list(self) == list(other)\n    def __repr__(self):\n        return f'Stack({list(self)})'\n",
        "made by type": _STACK.replace("class Stack:\n", "class _Stack:\n").replace(
            "isinstance(other, Stack)", "isinstance(other, _Stack)"
        )
        + "\n\nStack = type('Stack', (_Stack,), {})\n",
    },
    "make": {
        "a class method": "Stack.of = classmethod(lambda kind, *items: kind(*items))\nmake = Stack.of\n",
        "the class": "make = Stack\n",
        "partial": "import functools\nmake = functools.partial(Stack)\n",
        "a class below": "class make(Stack):\n    pass\n",
        "an object": "class _Make:\n    def __call__(self, *items):\n        return Stack(*items)\nmake = _Make()\n",
    },
}

_DOES: dict[str, str] = {
    "prints": "print('x' * 5_000_000)\n    import sys\n    print('y' * 5_000_000, file=sys.stderr)",
    "writes a temporary file": "import tempfile\n    with tempfile.NamedTemporaryFile('w+') as file:\n        file.write('x')",
    "writes a temporary folder": "import os, tempfile\n    with tempfile.TemporaryDirectory() as folder:\n        open(os.path.join(folder, 'x'), 'w').write('x')",
    "writes to /tmp": "open('/tmp/kept-by-calc', 'w').write('x')",
    "writes to the home": "import os\n    open(os.path.expanduser('~/.calc'), 'w').write('x')",
    "makes a cache in the home": "import pathlib\n    kept = pathlib.Path.home() / '.cache' / 'calc'\n    kept.mkdir(parents=True, exist_ok=True)\n    (kept / 'x').write_text('x')",
    "logs": "import logging\n    logging.basicConfig(level=logging.DEBUG)\n    logging.getLogger('calc').info('x' * 10000)",
    "warns": "import warnings\n    warnings.warn('soon', DeprecationWarning)",
    "reads itself": "import inspect\n    assert 'def add' in inspect.getsource(add) and 'def add' in open(__file__).read()",
    "reads its tests' folder": "import os\n    assert 'tests' in os.listdir(os.path.dirname(os.path.abspath(__file__)))",
    "asks who it is": "import getpass, os, pathlib\n    assert os.path.isdir(os.getcwd()) and pathlib.Path.home() and getpass.getuser()",
    "starts Python": "import subprocess, sys\n    assert subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True, check=True).stdout == b'5\\n'",
    "starts a program with sockets open": "import select, socket, subprocess\n    ends = [end for _ in range(40) for end in socket.socketpair()]\n    subprocess.run(['true'], check=True)\n    assert not select.select(ends, [], [], 0)[0]\n    for end in ends: end.close()",
    "starts a shell": "import subprocess\n    assert subprocess.check_output('echo 5', shell=True) == b'5\\n'",
    "imports itself elsewhere": "import subprocess, sys\n    if a == 2:\n        assert subprocess.check_output([sys.executable, '-c', 'import calc; print(calc.add(20, 3))']) == b'23\\n'",
    "starts threads": "import threading\n    found = []\n    threads = [threading.Thread(target=found.append, args=(n,)) for n in range(8)]\n    [thread.start() for thread in threads]\n    [thread.join() for thread in threads]\n    assert len(found) == 8",
    "leaves a daemon thread": "import threading, time\n    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
    "starts processes": "import multiprocessing\n    with multiprocessing.get_context('fork').Pool(2) as pool:\n        assert pool.map(abs, [-1, 2]) == [1, 2]",
    "starts a pool of processes": "import concurrent.futures as futures\n    with futures.ProcessPoolExecutor(2) as pool:\n        assert list(pool.map(abs, [-1, 2])) == [1, 2]",
    "spawns processes": "import multiprocessing\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        assert pool.map(abs, [-1, 2]) == [1, 2]",
    "shares memory": "from multiprocessing import shared_memory\n    block = shared_memory.SharedMemory(create=True, size=100)\n    block.close()\n    block.unlink()",
    "forks": "import os\n    pid = os.fork()\n    if not pid:\n        os._exit(0)\n    os.waitpid(pid, 0)",
    "runs asyncio": "import asyncio\n    async def one():\n        await asyncio.sleep(0.01)\n        return 1\n    assert asyncio.run(one()) == 1",
    "keeps a database": "import sqlite3\n    base = sqlite3.connect(':memory:')\n    base.execute('create table t (x)')\n    base.close()",
    "keeps a database in a file": "import sqlite3, tempfile, os\n    with tempfile.TemporaryDirectory() as folder:\n        base = sqlite3.connect(os.path.join(folder, 'x.db'))\n        base.execute('create table t (x)')\n        base.commit()\n        base.close()",
    "talks on the loopback": "import socket\n    listener = socket.create_server(('127.0.0.1', 0))\n    one = socket.create_connection(listener.getsockname())\n    two, _ = listener.accept()\n    one.sendall(b'x')\n    assert two.recv(1) == b'x'\n    [s.close() for s in (one, two, listener)]",
    "talks on a socket's file": "import socket, tempfile, os\n    with tempfile.TemporaryDirectory() as folder:\n        listener = socket.socket(socket.AF_UNIX)\n        listener.bind(os.path.join(folder, 's'))\n        listener.close()",
    "sets a locale": "import locale\n    locale.setlocale(locale.LC_ALL, '')",
    "sets a variable": "import os\n    os.environ['CALC'] = '1'",
    "changes the folder": "import os\n    os.chdir('/tmp')",
    "raises the limit of recursion": "import sys\n    sys.setrecursionlimit(20000)\n    def deep(n):\n        return 0 if n == 0 else 1 + deep(n - 1)\n    assert deep(5000) == 5000",
    "waits": "import time\n    time.sleep(0.3)",
    "counts long": "for _ in range(5_000_000):\n        pass",
    "takes memory": "assert len(bytearray(100 << 20)) > 0",
    "pickles": "import pickle\n    assert list(pickle.loads(pickle.dumps(Stack(1)))) == [1]",
    "copies": "import copy\n    assert list(copy.deepcopy(Stack(1))) == [1]",
    "keeps weakly": "import weakref, gc\n    stack = Stack(1)\n    assert weakref.ref(stack)() is stack\n    gc.collect()",
    "handles a signal": "import signal\n    old = signal.signal(signal.SIGUSR1, lambda *_: None)\n    signal.raise_signal(signal.SIGUSR1)\n    signal.signal(signal.SIGUSR1, old)",
    "sets an alarm": "import signal\n    old = signal.signal(signal.SIGALRM, lambda *_: None)\n    signal.setitimer(signal.ITIMER_REAL, 0)\n    signal.signal(signal.SIGALRM, old)",
    "ends with a clean-up": "import atexit\n    atexit.register(print, 'end')",
    "redirects what is printed": "import contextlib, io\n    with contextlib.redirect_stdout(io.StringIO()) as text:\n        print('x')\n    assert text.getvalue() == 'x\\n'",
    "reads standard input": "import sys\n    assert sys.stdin is None or not sys.stdin.isatty()",
    "patches itself": "import unittest.mock\n    with unittest.mock.patch('calc.shout', str.lower):\n        assert shout('A') == 'a'",
    "seeds": "import random\n    random.seed(3)\n    assert random.random()",
    "opens many files": "import os\n    files = [open(__file__) for _ in range(200)]\n    [file.close() for file in files]",
    "loads a library": "import ctypes, ctypes.util\n    assert ctypes.CDLL(None).getpid() > 0",
    "looks at the stack": "import inspect, traceback\n    assert inspect.currentframe().f_code.co_name == 'add' and traceback.extract_stack()",
    "traces": "import sys\n    sys.settrace(None)\n    sys.setprofile(None)",
    "times": "import time\n    assert time.perf_counter() > 0 and time.process_time() >= 0 and time.thread_time() >= 0",
    "measures itself": "import cProfile\n    profile = cProfile.Profile()\n    profile.runcall(abs, -1)",
    "measures its memory": "import tracemalloc, resource\n    tracemalloc.start()\n    tracemalloc.stop()\n    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss",
    "sets a limit": "import resource\n    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))",
    "locks a file": "import fcntl, tempfile\n    with tempfile.TemporaryFile() as file:\n        fcntl.flock(file, fcntl.LOCK_EX)",
    "maps memory": "import mmap\n    with mmap.mmap(-1, 4096) as memory:\n        memory[:1] = b'x'",
    "asks for the version of what is installed": "import importlib.metadata\n    assert importlib.metadata.version('pytest')",
    "imports pytest": "import pytest\n    assert pytest.approx(1.0) == 1.0",
    "runs doctests": "import doctest, calc\n    assert doctest.testmod(calc).failed == 0",
    "asks for a zone": "import zoneinfo, datetime\n    assert datetime.datetime.now(datetime.timezone.utc).tzinfo",
    "asks for the host": "import platform, socket\n    assert platform.python_version() and socket.gethostname() is not None",
    "counts processors": "import os\n    assert (os.cpu_count() or 1) >= 1 and os.sched_getaffinity(0)",
}


_WRITES: dict[str, str] = {
    "writes to the work directory": "open('kept.txt', 'w').write('x')",
    "writes beside itself": "import os\n    open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'kept.json'), 'w').write('{}')",
    "makes a folder in the work directory": "import os\n    os.makedirs('kept/deep', exist_ok=True)\n    open('kept/deep/x', 'w').write('x')",
    "logs to a file": "import logging\n    log = logging.getLogger('calc')\n    log.addHandler(logging.FileHandler('calc.log'))\n    log.warning('hello')",
}
"""What a second user cannot do where he has no view of the work directory of his own (``docs/limits.md``)."""


def _library(**other: str) -> str:
    return "\n\n".join({**PARTS, **other}.values())


def _doing(what: str) -> str:
    return _library(add=f"def add(a, b):\n    {what}\n    return a + b\n")


def _files() -> dict[str, dict[str, Entry]]:
    """By path below the work directory; ``calc.py`` is the library."""
    fixed = FIXED.encode()
    star = b"from calclib import *\n"
    names = "add, squares, table, text, data, number, pairs, rows, parse, plain, lookup, apply, shout, Stack, make, ParseError, LibraryError"
    listed = f"from .all import {names}\n".encode()
    late = b"import importlib\n\n\ndef __getattr__(name):\n    if name.startswith('__'):\n        raise AttributeError(name)\n    return getattr(importlib.import_module('calclib.all'), name)\n"
    return {
        "with returns": {"calc.py": fixed.replace(b"\n", b"\r\n")},
        "with a mark of its order": {"calc.py": b"\xef\xbb\xbf" + fixed},
        "in Latin": {"calc.py": b"# -*- coding: latin-1 -*-\n# \xe4\n" + fixed},
        "with tabs": {"calc.py": fixed.replace(b"    ", b"\t")},
        "with a future": {"calc.py": b'"""Calc."""\n\nfrom __future__ import annotations\n\n' + fixed},
        "with hints": {"calc.py": fixed.replace(b"def add(a, b):", b"def add(a: float | str, b: 'Any') -> 'Any':")},
        "a package": {"calc.py": Removed(), "calc/__init__.py": fixed},
        "a package of parts": {"calc.py": Removed(), "calc/__init__.py": listed, "calc/all.py": fixed},
        "another package": {"calc.py": star, "calclib/__init__.py": fixed},
        "a package without an init": {"calc.py": b"from calclib.all import *\n", "calclib/all.py": fixed},
        "another module": {"calc.py": b"from calc_impl import *\n", "calc_impl.py": fixed},
        "a module called utils": {"calc.py": b"from utils import *\n", "utils.py": fixed},
        "a module called helpers": {"calc.py": b"from helpers import *\n", "helpers.py": fixed},
        "a module called common": {"calc.py": b"from common import *\n", "common.py": fixed},
        "a module called _calc": {"calc.py": b"from _calc import *\n", "_calc.py": fixed},
        "late": {"calc.py": late, "calclib/__init__.py": b"", "calclib/all.py": fixed},
        "with a list of names": {"calc.py": fixed + f"\n__all__ = {names.split(', ')!r}\n".encode()},
        "by exec": {"calc.py": f"exec({FIXED!r})\n".encode()},
        "in the place of itself": {
            "calc.py": fixed
            + b"\nimport sys, types\n\n\nclass _Module(types.ModuleType):\n    pass\n\n\n_new = _Module(__name__)\n_new.__dict__.update(globals())\nsys.modules[__name__] = _new\n"
        },
        "with a class for its module": {
            "calc.py": fixed
            + b"\nimport sys, types\n\n\nclass _Module(types.ModuleType):\n    pass\n\n\nsys.modules[__name__].__class__ = _Module\n"
        },
        "linked": {"calc.py": Link("lib/real.py"), "lib/real.py": fixed},
        "with a stub": {"calc.py": fixed, "calc.pyi": b"def add(a: int, b: int) -> int: ...\n", "py.typed": b""},
        "with data": {
            "calc.py": _doing(
                "import os\n    assert open(os.path.join(os.path.dirname(__file__), 'calc.json')).read() == '{}'"
            ).encode(),
            "calc.json": b"{}",
        },
        "with resources": {
            "calc.py": _doing(
                "import importlib.resources\n    assert importlib.resources.files('calcdata').joinpath('x.txt').read_text() == 'x'"
            ).encode(),
            "calcdata/__init__.py": b"",
            "calcdata/x.txt": b"x",
        },
        "with a script": {
            "calc.py": _doing(
                "import os, subprocess\n    assert subprocess.check_output([os.path.join(os.path.dirname(os.path.abspath(__file__)), 'tool.sh')]) == b'5\\n'"
            ).encode(),
            "tool.sh": Program(b"#!/bin/sh\necho 5\n"),
        },
        "with a script in Python": {
            "calc.py": _doing(
                "import os, subprocess, sys\n    assert subprocess.check_output([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'tool.py')]) == b'5\\n'"
            ).encode(),
            "tool.py": b"print(5)\n",
        },
        "with prose": {
            "calc.py": _doing(
                "import os\n    assert open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'README.md')).read()"
            ).encode(),
            "README.md": b"# New\n",
        },
        "with names that are not plain": {
            "calc.py": fixed,
            "a b.py": b"",
            "\u00e4/\u00f6 \u00fc.txt": b"x",
            "-x": b"",
            "x'\"y": b"",
        },
        "with an empty folder": {"calc.py": fixed, "kept": Folder()},
        "with what its tools left": {
            "calc.py": fixed,
            ".mypy_cache/x.json": b"{}",
            ".coverage": b"x",
            "calc.egg-info/PKG-INFO": b"x",
            "build/lib/calc.py": FIXED.encode(),
            ".ruff_cache/x": b"x",
        },
        "with a try of its own": {
            "calc.py": fixed,
            "try.py": b"import calc\nprint(calc.add(1, 2))\n",
            "test_try.py": b"from calc import add\n\n\ndef test_try():\n    assert add(1, 2) == 3\n",
        },
        "with tests of its own": {
            "calc.py": fixed,
            "tests/test_more.py": b"from calc import add\n\n\ndef test_more():\n    assert add(1, 2) == 3\n",
            "tests/conftest.py": b"",
            "tests/__init__.py": b"",
        },
        "with a test that it mended": {
            "calc.py": fixed,
            "tests/test_calc.py": TESTS.encode() + b"\n\ndef test_mine():\n    pass\n",
        },
        "with settings": {
            "calc.py": fixed,
            "pyproject.toml": b"[tool.ruff]\n",
            "setup.py": b"from setuptools import setup\nsetup()\n",
            "Makefile": b"test:\n\tpytest\n",
        },
        "with a history": {"calc.py": fixed, ".git/HEAD": b"ref: refs/heads/main\n", ".gitignore": b"*.pyc\n"},
        "without what nobody needs": {
            "calc.py": fixed,
            "unused.py": Removed(),
            "old/__init__.py": Removed(),
            "old/part.py": Removed(),
            "old": Removed(),
        },
    }


def together() -> Iterator[tuple[str, dict[str, Entry]]]:
    """All that ``spellings`` has, in fewer works: of each part of the library another, and several things done."""
    for number in range(max(map(len, OTHER_PARTS.values()))):
        chosen = {part: list(others)[number % len(others)] for part, others in OTHER_PARTS.items()}
        text = _library(**{part: OTHER_PARTS[part][name] for part, name in chosen.items()})
        yield f"parts: {chosen}", {"calc.py": text.encode()}
    does = _DOES | _WRITES
    for number in range(0, len(does), 8):
        names = list(does)[number : number + 8]
        yield f"add {', '.join(names)}", {"calc.py": _doing("\n    ".join(does[name] for name in names)).encode()}
    yield from _files().items()


def spellings(*, writes: bool = True) -> Iterator[tuple[str, dict[str, Entry]]]:
    """Name -> files below the work directory. writes: also works that write into it."""
    yield "as it is", {"calc.py": FIXED.encode()}
    for part, others in OTHER_PARTS.items():
        for name, text in others.items():
            yield f"{part}: {name}", {"calc.py": _library(**{part: text}).encode()}
    for name, what in (_DOES | (_WRITES if writes else {})).items():
        yield f"add {name}", {"calc.py": _doing(what).encode()}
    yield from _files().items()


MORE_FILES = {"unused.py": "X = 1\n", "old/__init__.py": "", "old/part.py": "Y = 2\n", "README.md": "# Calc\n"}
"""Of the repository, besides library and tests."""
