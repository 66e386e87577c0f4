"""Right work in other words, of more kinds: objects, registries, errors and tables, each made otherwise than known.

Like ``spellings.py``, of which it goes on: ``PARTS`` has the known solution's text, its test, and what honest people may
write in its place. It knows nothing of verdicts.
"""

# ruff: noqa: E501 - programs

from __future__ import annotations

from collections.abc import Iterator

ADD = "def add(a, b):\n    return a + b\n"
PARTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "errors": (
        """\
class Bad(Exception):
    pass
class Worse(Bad):
    def __init__(self, code): self.code = code; super().__init__(f"code {code}")
def go(n):
    if n: raise Worse(n)
""",
        """\
def test_errors():
    with pytest.raises(calc.Bad, match="code 3"): calc.go(3)
    with pytest.raises(calc.Worse) as info: calc.go(4)
    assert info.value.code == 4
    try:
        calc.go(5)
    except calc.Bad as error:
        assert str(error) == "code 5" and error.code == 5
    else:
        assert False
    assert issubclass(calc.Worse, calc.Bad)
""",
        {
            "mixin": """\
class Bad(Exception): pass
class Coded:
    code = 0
class Worse(Coded, Bad):
    def __init__(self, code): Bad.__init__(self, f"code {code}"); self.code = code
def go(n):
    if n: raise Worse(n)
""",
            "str": """\
class Bad(Exception): pass
class Worse(Bad):
    def __str__(self): return f"code {self.code}"
    @property
    def code(self): return self.args[0]
def go(n):
    if n: raise Worse(n)
""",
            "group": """\
class Bad(Exception): pass
class Worse(Bad):
    __slots__ = ("code",)
    def __new__(cls, code):
        self = super().__new__(cls, f"code {code}"); self.code = code
        return self
    def __init__(self, code): super().__init__(f"code {code}")
def go(n):
    if n: raise Worse(n)
""",
        },
    ),
    "registry": (
        """\
_handlers = {}
def register(name):
    def inner(f):
        _handlers[name] = f
        return f
    return inner
def dispatch(name, *a): return _handlers[name](*a)
def retry(times):
    def outer(f):
        def inner(*a, **k):
            for i in range(times):
                try: return f(*a, **k)
                except ValueError:
                    if i == times - 1: raise
        return inner
    return outer
""",
        """\
def test_registry():
    @calc.register("double")
    def double(x): return 2 * x
    assert calc.dispatch("double", 4) == 8 and double(3) == 6
    with pytest.raises(KeyError): calc.dispatch("none")
    seen = []
    @calc.retry(3)
    def flaky(x):
        seen.append(x)
        if len(seen) < 3: raise ValueError("no")
        return x
    assert flaky(5) == 5 and seen == [5, 5, 5]
    @calc.retry(2)
    def never(): raise ValueError("never")
    with pytest.raises(ValueError, match="never"): never()
""",
        {
            "classy": """\
import functools
class Registry(dict):
    def __call__(self, name): return functools.partial(self._keep, name)
    def _keep(self, name, f): self[name] = f; return f
register = Registry()
def dispatch(name, *a): return register[name](*a)
class retry:
    def __init__(self, times): self.times = times
    def __call__(self, f):
        @functools.wraps(f)
        def inner(*a, **k):
            error = None
            for _ in range(self.times):
                try: return f(*a, **k)
                except ValueError as e: error = e
            raise error
        return inner
""",
            "loops": """\
import functools
_h = {}
def register(name): return lambda f: _h.setdefault(name, f)
def dispatch(name, *a, **k):
    f = _h[name]
    return f(*a, **k)
def retry(times):
    def outer(f):
        @functools.wraps(f)
        def inner(*a, **k):
            left = times
            while True:
                left -= 1
                try:
                    return f(*a, **k)
                except Exception as error:
                    if not left or not isinstance(error, ValueError): raise
        return inner
    return outer
""",
            "recursive": """\
import functools
_h = {}
def register(name):
    def keep(f): _h.update({name: f}); return f
    return keep
def dispatch(*a): name, *rest = a; return _h[name](*rest)
def retry(times):
    def outer(f):
        @functools.wraps(f)
        def inner(*a):
            def go(n):
                try: return f(*a)
                except ValueError:
                    if n <= 1: raise
                return go(n - 1)
            return go(times)
        return inner
    return outer
""",
        },
    ),
    "inner": (
        """\
class Node:
    def __init__(self, name): self.name, self.kids, self.parent = name, [], None
    def add(self, name):
        kid = Node(name); kid.parent = self; self.kids.append(kid)
        return kid
    def walk(self):
        yield self
        for k in self.kids: yield from k.walk()
    def find(self, name): return next((n for n in self.walk() if n.name == name), None)
""",
        """\
def test_inner():
    root = calc.Node("r")
    a = root.add("a"); b = a.add("b")
    assert [n.name for n in root.walk()] == ["r", "a", "b"]
    assert root.find("b").parent.name == "a" and root.find("z") is None
    assert root.kids[0].kids[0].name == "b" and len(root.kids) == 1
    assert b.parent is a or b.parent == a
    assert root.find("a") == a
    a.name = "c"
    assert root.kids[0].name == "c"
    for kid in root.kids:
        assert kid.parent.name == "r"
""",
        {
            "dc": """\
import dataclasses
@dataclasses.dataclass(eq=False)
class Node:
    name: str
    parent: "Node" = None
    kids: list = dataclasses.field(default_factory=list)
    def add(self, name): self.kids.append(Node(name, self)); return self.kids[-1]
    def walk(self):
        todo = [self]
        while todo:
            n = todo.pop(0); yield n
            todo = n.kids + todo
    def find(self, name):
        for n in self.walk():
            if n.name == name: return n
""",
            "weak": """\
import weakref
_roots = []
class Node:
    _parent = lambda self: None
    def __init__(self, name): self.name = name; self._kids = {}; _roots.append(self)
    @property
    def parent(self): return self._parent()
    @property
    def kids(self): return list(self._kids.values())
    def add(self, name):
        n = Node(name); n._parent = weakref.ref(self); self._kids[len(self._kids)] = n; return n
    def walk(self): return [self, *(x for k in self.kids for x in k.walk())]
    def find(self, name): return dict((n.name, n) for n in self.walk()).get(name)
""",
            "tupled": """\
import collections
class Kids(collections.UserList): pass
class Node:
    parent = None
    def __init__(self, name): self.name, self.kids = name, Kids()
    def add(self, name): k = type(self)(name); k.parent = self; self.kids.append(k); return k
    def walk(self): return iter(sum((list(k.walk()) for k in self.kids), [self]))
    def find(self, name): return ([n for n in self.walk() if n.name == name] or [None])[0]
""",
        },
    ),
    "events": (
        """\
class Emitter:
    def __init__(self): self._f = []
    def on(self, f): self._f.append(f); return self
    def emit(self, *a, **k): return [f(*a, **k) for f in self._f]
""",
        """\
def test_events():
    e, seen = calc.Emitter(), []
    e.on(seen.append).on(lambda x: x + 1)
    assert e.emit(3) == [None, 4] and seen == [3]
    def fails(x): raise LookupError("boom")
    e.on(fails)
    with pytest.raises(LookupError, match="boom"): e.emit(1)
    class Listener:
        def __init__(self): self.got = {}
        def hear(self, **k): self.got.update(k)
    l = Listener()
    calc.Emitter().on(l.hear).emit(a=1)
    assert l.got == {"a": 1}
""",
        {
            "lists": """\
class Emitter(list):
    def on(self, f): self += [f]; return self
    def emit(self, *a, **k):
        found = []
        for f in tuple(self): found.append(f(*a, **k))
        return found
""",
            "threads": """\
import concurrent.futures
class Emitter:
    def __init__(self): self.f = {}
    def on(self, f): self.f[len(self.f)] = f; return self
    def emit(self, *a, **k):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return [pool.submit(f, *a, **k).result() for f in self.f.values()]
""",
            "partial": """\
import functools, operator
class Emitter:
    __slots__ = ("f",)
    def __init__(self): self.f = ()
    def on(self, f): self.f += (f,); return self
    def emit(self, *a, **k): return list(map(lambda f: operator.call(f, *a, **k) if hasattr(operator, "call") else f(*a, **k), self.f))
""",
            "weak": """\
class Emitter:
    def __init__(self): self._f = []
    def on(self, f):
        if not callable(f): raise TypeError(f)
        self._f.append((getattr(f, "__name__", "f"), f))
        return self
    def emit(self, *a, **k): return [f(*a, **k) for _, f in self._f]
""",
        },
    ),
    "properties": (
        """\
class Account:
    rate = 3
    def __init__(self, owner, balance=0): self.owner = owner; self._b = balance
    @property
    def balance(self): return self._b
    @balance.setter
    def balance(self, v):
        if v < 0: raise ValueError("negative")
        self._b = v
    @classmethod
    def of(cls, text): return cls(*text.split(":")[:1], int(text.split(":")[1]))
    @staticmethod
    def fee(x): return x // 10
    def to_dict(self): return {"owner": self.owner, "balance": self._b}
""",
        """\
def test_properties():
    a = calc.Account("bob")
    a.balance = 5
    assert a.balance == 5 and a.owner == "bob" and a.rate == calc.Account.rate == 3
    with pytest.raises(ValueError): a.balance = -1
    b = calc.Account.of("eve:7")
    assert (b.owner, b.balance) == ("eve", 7)
    assert calc.Account.fee(25) == 2 == b.fee(20)
    assert b.to_dict() == {"owner": "eve", "balance": 7}
    assert hasattr(a, "balance") and not hasattr(a, "nothing")
    a.owner = "ann"
    assert a.to_dict()["owner"] == "ann"
    with pytest.raises(AttributeError): a.nothing
""",
        {
            "descriptor": """\
class Positive:
    def __set_name__(self, o, n): self.n = "_" + n
    def __get__(self, i, o): return self if i is None else i.__dict__[self.n]
    def __set__(self, i, v):
        if v < 0: raise ValueError("negative")
        i.__dict__[self.n] = v
class Account:
    rate, balance = 3, Positive()
    def __init__(self, owner, balance=0): self.owner, self.balance = owner, balance
    @classmethod
    def of(cls, text):
        o, _, b = text.partition(":")
        return cls(o, balance=int(b))
    fee = staticmethod(lambda x: x // 10)
    def to_dict(self): return dict(owner=self.owner, balance=self.balance)
""",
            "setattr": """\
class Account:
    rate = 3
    def __init__(self, owner, balance=0): self.owner = owner; self.balance = balance
    def __setattr__(self, n, v):
        if n == "balance" and v < 0: raise ValueError("negative")
        object.__setattr__(self, n, v)
    @classmethod
    def of(cls, text): o, b = text.split(":"); return cls(o, int(b))
    @staticmethod
    def fee(x): return divmod(x, 10)[0]
    def to_dict(self): return {n: v for n, v in vars(self).items()}
""",
            "getattr": """\
class Meta(type):
    rate = property(lambda cls: 3)
class Account(metaclass=Meta):
    def __init__(self, owner, balance=0): self.__dict__["d"] = {"owner": owner, "balance": balance}
    def __getattr__(self, n):
        if n == "rate": return 3
        try: return self.__dict__["d"][n]
        except KeyError: raise AttributeError(n) from None
    def __setattr__(self, n, v):
        if n == "balance" and v < 0: raise ValueError
        self.d[n] = v
    @classmethod
    def of(cls, text): o, b = text.split(":"); return cls(o, int(b))
    @staticmethod
    def fee(x): return x // 10
    def to_dict(self): return dict(self.d)
""",
            "slots": """\
class _Base:
    __slots__ = ()
    rate = 3
    @staticmethod
    def fee(x): return x // 10
class Account(_Base):
    __slots__ = ("owner", "_balance")
    def __init__(self, owner, balance=0): self.owner = owner; self._balance = balance
    balance = property(lambda s: s._balance)
    @balance.setter
    def balance(self, v):
        if v < 0: raise ValueError("negative")
        self._balance = v
    @classmethod
    def of(cls, text): o, b = text.split(":"); return cls(o, int(b))
    def to_dict(self): return {"owner": self.owner, "balance": self._balance}
""",
            "pydantic_like": """\
import dataclasses
@dataclasses.dataclass
class Account:
    owner: str
    balance: int = 0
    rate = 3
    def __post_init__(self): pass
    def __setattr__(self, n, v):
        if n == "balance" and v < 0: raise ValueError("negative")
        super().__setattr__(n, v)
    @classmethod
    def of(cls, text): o, b = text.split(":"); return cls(o, int(b))
    @staticmethod
    def fee(x): return x // 10
    to_dict = dataclasses.asdict
""",
        },
    ),
    "state": (
        """\
counter = 0
items = []
LIMIT = 10
NAMES = ("a", "b")
TABLE = {"x": 1}
def bump():
    global counter
    counter += 1
    return counter
def reset():
    global counter
    counter = 0
    items.clear()
def put(x): items.append(x)
def get(): return items
""",
        """\
def test_state():
    calc.reset()
    assert calc.bump() == 1 and calc.bump() == 2 and calc.counter == 2
    calc.put(1); calc.put(2)
    assert calc.get() == [1, 2] and calc.items == [1, 2]
    calc.reset()
    assert calc.counter == 0 and calc.items == []
    assert calc.LIMIT == 10 and calc.NAMES == ("a", "b") and calc.TABLE["x"] == 1
    assert "x" in calc.TABLE and len(calc.NAMES) == 2
""",
        {
            "getattr": """\
_s = {"counter": 0, "items": []}
LIMIT, NAMES = 5 * 2, tuple("ab")
import types
TABLE = types.MappingProxyType({"x": 1})
def __getattr__(n):
    try: return _s[n]
    except KeyError: raise AttributeError(n) from None
def bump(): _s["counter"] += 1; return _s["counter"]
def reset(): _s["counter"] = 0; del _s["items"][:]
def put(x): _s["items"] += [x]
def get(): return list(_s["items"])
""",
            "objects": """\
import itertools, collections, types
class _State:
    def __init__(self): self.clear()
    def clear(self): globals()["counter"] = 0; globals()["items"] = []
_s = _State()
import sys
LIMIT, NAMES, TABLE = 0xA, ("a",) + ("b",), dict([("x", 1)])
def bump(): globals()["counter"] += 1; return globals()["counter"]
reset = _s.clear
def put(x): items.insert(len(items), x)
def get(): return items[:]
""",
            "classes": """\
import collections
counter = 0
class NAMES_(collections.UserList): pass
items = collections.deque()
items = []
LIMIT = int("10")
NAMES = collections.namedtuple("N", "p q")("a", "b")
TABLE = collections.ChainMap({}, {"x": 1})
def bump():
    global counter
    counter = counter + 1
    return counter
def reset():
    global counter, items
    counter, items = 0, []
def put(x):
    global items
    items = items + [x]
def get(): return items
""",
        },
    ),
    "data": (
        """\
def config(): return {"a": {"b": [1, (2, 3)]}, "s": {1, 2}, "n": None, 5: 1.5, (1, 2): "t", "f": frozenset([1])}
def money(): from decimal import Decimal; return Decimal("1.10")
def ratio(): from fractions import Fraction; return Fraction(1, 3)
def raw(): return bytearray(b"ab")
def big(): return 2 ** 200
def cplx(): return 1 + 2j
def text(): return "\\u00e4\\ud83d\\ude00".encode("utf-16", "surrogatepass").decode("utf-16") + "\\0"
def inf(): return float("inf")
def rng(): return range(0, 10, 2)
def uid(): import uuid; return uuid.UUID(int=5)
def pat(): import re; return re.compile("a+")
def everything(): return slice(1, 2)
""",
        """\
import decimal, fractions, uuid
def test_data():
    assert calc.config() == {"a": {"b": [1, (2, 3)]}, "s": {1, 2}, "n": None, 5: 1.5, (1, 2): "t", "f": frozenset([1])}
    assert calc.config()["a"]["b"][1][0] == 2
    assert calc.money() == decimal.Decimal("1.1") and str(calc.money()) == "1.10"
    assert calc.ratio() == fractions.Fraction(1, 3) and calc.ratio() * 3 == 1
    assert calc.raw() == b"ab" and calc.big() == 2 ** 200 and calc.cplx() == 1 + 2j
    assert calc.text() == "\\u00e4\\U0001f600\\0" and calc.inf() > 10 ** 100
    assert list(calc.rng()) == [0, 2, 4, 6, 8] and 4 in calc.rng()
    assert calc.uid() == uuid.UUID(int=5) and calc.uid().int == 5
    assert calc.pat().match("aab").group() == "aa"
""",
        {
            "others": """\
import collections, types
def config():
    d = collections.defaultdict(dict)
    d["a"]["b"] = [True, (2, 3)]
    d.update(s=set((1, 2)), n=None, f=frozenset({1}))
    d[5] = 3 / 2
    d[1, 2] = "t"
    return d
def money(): import decimal; return decimal.Decimal(110) / decimal.Decimal(100) + decimal.Decimal("0.00")
def ratio(): import fractions; return fractions.Fraction("1/3")
def raw(): return memoryview(b"ab").tobytes()
def big(): return 1 << 200
def cplx(): return complex(1, 2)
def text(): return "".join(map(chr, (0xe4, 0x1f600, 0)))
def inf(): import math; return math.inf
def rng(): return [*range(0, 10, 2)]
def uid(): import uuid; return uuid.UUID("00000000-0000-0000-0000-000000000005")
def pat(): import re; return re.compile("a+", re.I)
""",
            "subclasses": """\
import collections, decimal, fractions
class D(dict): pass
class L(list): pass
class S(str): pass
class I(int): pass
def config(): return collections.OrderedDict({S("a"): D(b=L([I(1), (2, 3)])), "s": {1, 2}, "n": None, 5: 1.5, (1, 2): S("t"), "f": frozenset([1])})
class M(decimal.Decimal): pass
def money(): return M("1.10")
class F(fractions.Fraction): pass
def ratio(): return F(1, 3)
class B(bytes): pass
def raw(): return B(b"ab")
def big(): return I(2 ** 200)
class C(complex): pass
def cplx(): return C(1, 2)
def text(): return S("\\u00e4\\U0001f600\\0")
class Fl(float): pass
def inf(): return Fl("inf")
def rng(): return L(range(0, 10, 2))
def uid(): import uuid; return uuid.UUID(fields=(0, 0, 0, 0, 0, 5))
def pat():
    import re
    class P:
        def match(self, t): return re.match("a+", t)
    return P()
""",
        },
    ),
}
TESTS = "\n\n".join(
    [
        "import calc\nimport pytest",
        *(test for _, test, _ in PARTS.values()),
        "def test_add():\n    assert calc.add(2, 3) == 5\n",
    ]
)
FIXED = "\n\n".join([*(known for known, _, _ in PARTS.values()), ADD])
BROKEN = FIXED.removesuffix(ADD) + ADD.replace("+", "-")
IDS = [
    f"tests/test_calc.py::{line[4:].partition('(')[0]}" for line in TESTS.splitlines() if line.startswith("def test_")
]


def together() -> Iterator[tuple[str, bytes]]:
    """Of each part another, as many times as the part with most has others."""
    for number in range(max(len(others) for _, _, others in PARTS.values())):
        chosen = {part: list(others)[number % len(others)] for part, (_, _, others) in PARTS.items()}
        texts = [PARTS[part][2][name] for part, name in chosen.items()]
        yield f"{chosen}", "\n\n".join([*texts, ADD]).encode()


def each() -> Iterator[tuple[str, bytes]]:
    """Each of them alone."""
    for part, (known, _, others) in PARTS.items():
        for name, text in others.items():
            yield f"{part}: {name}", FIXED.replace(known, text).encode()
