"""Plain data between two processes that do not trust each other: exact built-in types, as length-prefixed JSON.

What arrives can be built of nothing but None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset,
range and a few values of the standard library, of exactly these types, so no method of the other side's making ever
runs here. ``pickle`` and ``marshal`` give no such promise. It does not know what the data mean.
"""

from __future__ import annotations

import importlib
import json
import struct
import types
from binascii import crc32
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

MAX_MESSAGE = 16 << 20
MAX_DEPTH = 60
MAX_ITEMS = 100_000  # of an iterator, which crosses as its items
MAX_LEAVES = 2_000  # of an answer that are looked at one by one
MAX_NAMED = 50  # keys of a table that are told apart
MAX_TEXT = 1000
"""So much of what an error says of itself crosses."""
NO_NUMBER = "nan"
"""Tag of a float that is none."""
ENDLESS = "inf"
"""Tag of one without an end: two of them make one that is none."""
ITERATOR = "i"
_ENDS = (float("inf"), float("-inf"))
_PREFIX = struct.Struct("!I")
_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "f"}
_BUILD: dict[str, Any] = {"l": list, "t": tuple, "s": set, "f": frozenset, "i": iter}
_OBJECT = ["o"]
_ITERATORS = ("builtins", "itertools")
_VIEWS: dict[type, str] = {type({}.keys()): "K", type({}.values()): "V", type({}.items()): "I"}
_BASES: tuple[Any, ...] = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset)
_STANDARD: dict[tuple[str, str], Callable[[Any], list[Any]]] = {
    ("decimal", "Decimal"): lambda value: [str(value)],
    ("fractions", "Fraction"): lambda value: [value.numerator, value.denominator],
    ("datetime", "date"): lambda value: [value.year, value.month, value.day],
    ("datetime", "datetime"): lambda value: _moment(value),
    ("datetime", "timedelta"): lambda value: [value.days, value.seconds, value.microseconds],
    ("pathlib", "PosixPath"): lambda value: [str(value)],
    ("pathlib", "PurePosixPath"): lambda value: [str(value)],
    ("uuid", "UUID"): lambda value: [str(value)],
}
"""Values of the standard library that are made anew from plain arguments: module and class -> those."""


class NotPlain(Exception):
    """A value that cannot cross."""


def _moment(value: Any) -> list[Any]:
    if value.tzinfo is not None:
        raise NotPlain("a time with a zone")
    return [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]


def encode(
    value: object, *, refer: Callable[[object], list[Any]] | None = None, iterators: bool = False, depth: int = 0
) -> Any:
    """JSON data for ``value``. refer: the data for what does not cross itself (a tag and what goes with it). iterators:
    a generator or iterator crosses as an iterator over its items.

    Raises ``NotPlain``, and whatever an iterator raises.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if depth > MAX_DEPTH:
        raise NotPlain("nested too deeply")

    def inner(item: object) -> Any:
        return encode(item, refer=refer, depth=depth + 1)

    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], *map(inner, value)]  # type: ignore[call-overload]
    if kind is dict:
        return ["d", *([inner(key), inner(item)] for key, item in value.items())]  # type: ignore[attr-defined]
    if kind in _VIEWS:
        return [_VIEWS[kind], *map(inner, value)]  # type: ignore[call-overload]
    if kind in (bytes, bytearray):
        return ["b" if kind is bytes else "a", value.hex()]  # type: ignore[attr-defined]
    if kind is complex:
        return ["c", value.real, value.imag]  # type: ignore[attr-defined]
    if kind is range:
        return ["r", value.start, value.stop, value.step]  # type: ignore[attr-defined]
    if (kind.__module__, kind.__qualname__) in _STANDARD:
        name = (kind.__module__, kind.__qualname__)
        return ["v", *name, *map(inner, _STANDARD[name](value))]
    if iterators and hasattr(kind, "__next__") and (refer is None or kind.__module__ in _ITERATORS):
        items = []
        for item in value:  # type: ignore[attr-defined]
            items.append(inner(item))
            if len(items) > MAX_ITEMS:
                raise NotPlain("an iterator without end")
        return ["i", *items]
    if refer is not None:
        return refer(value)
    raise NotPlain(f"a value of type {kind.__name__}")


def base_of(value: object) -> object:
    """A value of a class of its own as the plain one that it is or equals, or None: a named tuple as a tuple, a
    read-only table as a table, a number of numpy's as a number."""
    for base in _BASES:
        if isinstance(value, base):
            made = str.__str__(value) if base is str else base(value)  # a member of an enumeration shows its name
            return made if type(made) is base else None
    for above in type(value).__mro__:
        name = (above.__module__, above.__qualname__)
        if name in _STANDARD:
            return _standard(*name, _STANDARD[name](value))
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, Mapping):
        return dict(value)
    if type(value).__module__ == "collections" and type(value).__name__ in ("UserList", "UserString"):
        return value.data  # type: ignore[attr-defined]
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()  # type: ignore[attr-defined]
    return None


def items_of(value: Any) -> list[Any]:
    """What an object is gone through by, which is neither a table nor built in; whether it has a length first."""
    items = [hasattr(value, "__len__")]
    for item in value:
        items.append(item)
        if len(items) > MAX_ITEMS:
            raise NotPlain("an iterator without end")
    return items


def decode(data: Any, *, resolve: Callable[[list[Any]], Any] | None = None, depth: int = 0) -> Any:
    """The value. resolve: makes what ``refer`` has named. Raises ``NotPlain`` for what ``encode`` does not make."""
    if data is None or type(data) in (bool, int, float, str):
        if type(data) is float and resolve is not None and (data != data or data in _ENDS):
            return resolve([NO_NUMBER] if data != data else [ENDLESS, data])
        if type(data) is str and resolve is not None and 2 < len(data) < 12 and _is_no_number(data):
            return resolve([NO_NUMBER, data])
        return data
    if type(data) is not list or not data or depth > MAX_DEPTH:
        raise NotPlain("malformed data")

    def inner(item: Any) -> Any:
        return decode(item, resolve=resolve, depth=depth + 1)

    tag, *items = data
    try:
        if tag == ITERATOR and resolve is not None:
            return resolve([ITERATOR, list(map(inner, items))])
        if tag in _BUILD:
            return _BUILD[tag](list(map(inner, items)))
        if tag == "d":
            return {inner(key): inner(item) for key, item in items}
        if tag == "K":
            return dict.fromkeys(map(inner, items)).keys()
        if tag == "V":
            return dict(enumerate(map(inner, items))).values()
        if tag == "I":
            return dict(map(inner, items)).items()
        if tag in ("a", "b"):
            return (bytes if tag == "b" else bytearray).fromhex(items[0])
        if tag == "c":
            return complex(float(inner(items[0])), float(inner(items[1])))
        if tag == "r":
            return range(*items)
        if tag == "v":
            made = _standard(items[0], items[1], list(map(inner, items[2:])))
            endless = items[1] == "Decimal" and resolve is not None and not made.is_finite()
            return resolve([NO_NUMBER, made]) if endless and resolve is not None else made
    except (TypeError, ValueError, IndexError, ArithmeticError, AttributeError) as error:
        raise NotPlain(f"malformed data: {error}") from error
    if resolve is not None and type(tag) is str:
        return resolve(data)
    raise NotPlain("malformed data")


def _is_no_number(text: str) -> bool:
    """Whether a test that makes a number of it has none."""
    return text.strip().lstrip("+-").lower() in ("nan", "inf", "infinity")


def leaves(data: Any) -> list[tuple[str, str, list[Any] | None]]:
    """What is in data that came: where, as far as all elements of a list are alike, and exactly; and the data of an
    object, or None for plain ones. Nothing is said of None and of truth values, for which no object can stand."""
    found: list[tuple[str, str, list[Any] | None]] = []
    _leaves(data, "", "", found, 0)
    return found


def _leaves(data: Any, about: str, exactly: str, found: list[tuple[str, str, list[Any] | None]], depth: int) -> None:
    if data is None or data is True or data is False or depth > MAX_DEPTH or len(found) > MAX_LEAVES:
        return
    if type(data) is not list or not data:
        found.append((about, exactly, None))
        return
    tag, *items = data
    if tag in ("o", "k"):
        found.append((about, exactly, data))
        shown: list[tuple[str, str, list[Any] | None]] = []
        _leaves(data[2] if len(data) == 3 else None, about, exactly, shown, depth + 1)
        found += (one for one in shown if one[2] is not None)
    elif tag in ("l", "t", "s", "f", "i", "K", "V", "I"):
        for place, item in enumerate(items):
            _leaves(item, f"{about}[{place if tag == 't' else '*'}]", f"{exactly}[{place}]", found, depth + 1)
    elif tag == "d":
        for pair in items:
            if type(pair) is list and len(pair) == 2:
                name = repr(pair[0]) if type(pair[0]) in (str, int) and len(items) <= MAX_NAMED else "*"
                _leaves(pair[0], f"{about}[key]", f"{exactly}[key]", found, depth + 1)
                _leaves(pair[1], f"{about}[{name}]", f"{exactly}[{pair[0]!r}]", found, depth + 1)
    elif tag not in ("fn", NO_NUMBER):
        found.append((about, exactly, None))


def digest(data: Any) -> str:
    """Of encoded data, whatever makes no difference to who compares them: kinds of sequences, the order of a set. An
    object without a plain form counts as one; "" for such a one alone."""
    plainly = _alike(data)
    if plainly == _OBJECT:
        return ""
    text = json.dumps(plainly).encode()
    return f"{len(text)}-{crc32(text):08x}"


def _alike(data: Any) -> Any:
    if type(data) is not list or not data:
        return data
    tag, *items = data
    if tag in ("o", "k"):
        return _OBJECT if len(data) != 3 or data[2] is None else _alike(data[2])
    if tag == "fn":
        return _OBJECT
    if tag == "d":
        return ["d", *([_alike(part) for part in pair] for pair in items)]
    made = [_alike(item) for item in items]
    if tag in ("s", "f"):
        return ["s", *sorted(made, key=repr)]
    return ["l" if tag in ("t", "i") else "b" if tag == "a" else tag, *made]


def _standard(module: str, name: str, arguments: list[Any]) -> Any:
    if (module, name) not in _STANDARD:
        raise NotPlain(f"a value of type {name}")
    found = importlib.import_module(module)
    if type(found) is not types.ModuleType:  # a stand-in: the repository has a module of that name
        raise NotPlain(f"{module} is the repository's")
    return getattr(found, name)(*arguments)


def send(connection: socket.socket, message: list[Any]) -> None:
    """Raises ``NotPlain`` for text or numbers that JSON cannot hold, ``OSError``."""
    try:
        text = json.dumps(message).encode()
    except (ValueError, RecursionError) as error:
        raise NotPlain(str(error)) from error
    if len(text) > MAX_MESSAGE:
        raise NotPlain(f"{len(text)} bytes")
    connection.sendall(_PREFIX.pack(len(text)) + text)


def receive(connection: socket.socket) -> list[Any] | None:
    """The next message; None at the end. Raises ``NotPlain`` for what is none, ``OSError``."""
    prefix = _exactly(connection, _PREFIX.size)
    if prefix is None:
        return None
    (size,) = _PREFIX.unpack(prefix)
    if size > MAX_MESSAGE:
        raise NotPlain(f"a message of {size} bytes")
    text = _exactly(connection, size)
    if text is None:
        return None
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"malformed message: {error}") from error
    if type(message) is not list or not message or type(message[0]) is not str:
        raise NotPlain("malformed message")
    return message


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(1 << 18, size - len(parts)))
        if not part:
            return None
        parts += part
    return bytes(parts)
