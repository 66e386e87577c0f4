"""The tests' side of what does not cross: classes and instances of the code under test, known here by numbers.

An ``Object`` asks the other process for everything, and never tells it what a test expects: it equals plain data by the
plain form that the other side gives of it without seeing them, and another object only if it does not equal decoys too.
Arithmetic with plain data is refused, because a difference that is always 0 would pass for any number. It knows no
tests and no transport.
"""

from __future__ import annotations

import operator
import os
import random

if __package__:
    from .plain import NotPlain, base_of, items_of
else:  # beside a runner that was started as a program
    from plain import NotPlain, base_of, items_of  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    class Other(Protocol):
        """The other process, as ``apart.Solution`` is it."""

        def member(self, number: int, name: str) -> Any: ...
        def invoke(self, item: Object, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any: ...
        def special(self, number: int, name: str, *arguments: Any) -> Any: ...
        def leave(self, number: int, error: BaseException | None) -> bool: ...
        def refusal(self, why: str) -> NotPlain: ...


_SHOWN = ("__name__", "__qualname__", "__wrapped__", "__members__")
"""Names of this form that are asked for; the others are the interpreter's and the runner's business."""


def _draw() -> random.Random:
    return random.Random(os.urandom(16))  # the module's own state is the tests'


class Object:
    """An instance, or anything else that has no plain form."""

    __slots__ = ("__weakref__", "_apart")
    __doc__ = None

    def __init__(self, other: Other, number: int) -> None:
        object.__setattr__(self, "_apart", (other, number))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _SHOWN:
            raise AttributeError(name)
        other, number = self._apart
        return other.member(number, name)

    def __setattr__(self, name: str, value: object) -> None:
        ask(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        ask(self, "delattr", name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Object):
            if other._apart == self._apart:
                return True
            return _equal(self, other)
        return bool(ask(self, "plain") == other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int(ask(self, "hash"))

    def __bool__(self) -> bool:
        return ask(self, "bool") is True

    def __repr__(self) -> str:
        return str(ask(self, "repr"))

    def __str__(self) -> str:
        return str(ask(self, "str"))

    def __format__(self, form: str) -> str:
        return str(ask(self, "format", form))

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        other, _ = self._apart
        return other.invoke(self, arguments, keywords)

    def __enter__(self) -> Any:
        return ask(self, "enter")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        other, number = self._apart
        return bool(other.leave(number, error))

    def __reduce_ex__(self, protocol: object) -> Any:
        raise self._apart[0].refusal("a test copies or pickles an object of the code under test")


class Class(Object):
    """A class of the code under test."""

    __slots__ = ()

    def __init__(self, other: Other, number: int, *more: object) -> None:
        if more:
            raise NotPlain("a test derives a class from one of the code under test")
        super().__init__(other, number)

    def __mro_entries__(self, bases: object) -> Any:
        raise self._apart[0].refusal("a test derives a class from one of the code under test")

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Object) and ask(self, "isinstance", instance) is True

    def __subclasscheck__(self, other: object) -> bool:
        return isinstance(other, Object) and ask(self, "issubclass", other) is True


class Items:
    """Plain data that can be gone through and counted, and that equal nothing: what a deque or a sequence of the code
    under test's making is where the known solution gives data."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Any:
        return iter(self._items)

    def __reversed__(self) -> Any:
        return reversed(self._items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __getitem__(self, place: Any) -> Any:
        found = self._items[place]
        return Items(found) if isinstance(place, slice) else found

    def __repr__(self) -> str:
        return f"items {self._items}"


class Again:
    """What came as an iterator where the known solution gives what can be gone through again: who counts its items
    first has not come to its end."""

    def __init__(self, items: list[Any]) -> None:
        self._items, self._next = items, iter(items)

    def __iter__(self) -> Any:
        return iter(self._items)

    def __next__(self) -> Any:
        return next(self._next)

    def __repr__(self) -> str:
        return f"items {self._items}"


def items(sized: object, found: object, *, once: bool) -> Any:
    """Of what ``items_of`` gives on the other side. sized: it has a length; once: it may be an iterator."""
    if type(found) is not list or type(sized) is not bool:
        raise NotPlain("malformed data")
    return Items(found) if sized else iter(found) if once else Again(found)


def ask(one: Object, name: str, *arguments: Any) -> Any:
    other, number = one._apart
    return other.special(number, name, *arguments)


def _equal(one: Object, two: Object) -> bool:
    """Whether the other side says so, and says it of nothing that no object equals: it cannot tell which is asked."""
    draw = _draw()
    asked: list[Any] = [two, [two], draw.random(), "".join(draw.choices("abcdefghijklmnop", k=12))]
    order = draw.sample(range(len(asked)), len(asked))
    answers = {place: ask(one, "eq", asked[place]) for place in order}
    return answers[0] is True and not any(answers[place] for place in range(1, len(asked)))


def _forwarded(name: str) -> Callable[..., Any]:
    return lambda self, *arguments: ask(self, name, *arguments)


def _among_objects(name: str) -> Callable[..., Any]:
    def method(self: Object, other: object) -> Any:
        if not isinstance(other, Object):
            raise self._apart[0].refusal(f"{name} of an object of the code under test and plain data")
        return ask(self, name, other)

    return method


ASKED = (
    *("len", "iter", "next", "getitem", "setitem", "delitem", "contains", "int", "float", "index", "bytes", "round"),
    *("abs", "neg", "pos", "invert", "reversed"),
)
ARITHMETIC = (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift"),
    *("and", "or", "xor"),
)
ORDER = ("lt", "le", "gt", "ge")

for _name in ASKED:
    setattr(Object, f"__{_name}__", _forwarded(_name))
for _name in (*ARITHMETIC, *ORDER):
    setattr(Object, f"__{_name}__", _among_objects(_name))
    if _name in ARITHMETIC:
        setattr(Object, f"__r{_name}__", _among_objects(_name))  # only ever met with plain data, and so refused


def perform(item: Any, name: str, arguments: list[Any]) -> Any:
    """On the other side: what ``ask`` has asked of the object ``item``."""
    special = _SPECIAL.get(name) or getattr(operator, f"__{name}__", None)
    if special is None:
        raise NotPlain(f"{name!r} cannot be asked")
    return special(item, *arguments)


def _says_equal(one: Any, two: Any) -> bool:
    try:
        return bool(one == two)
    except Exception:
        return False  # of what it was not made for


def _plain(item: Any) -> Any:
    found = base_of(item)
    if found is None:
        raise NotPlain(f"an object of type {type(item).__name__} compared with plain data")
    return found


_SPECIAL: dict[str, Callable[..., Any]] = {
    "eq": _says_equal,
    "plain": _plain,
    "items": items_of,
    "hash": hash,
    "bool": bool,
    "repr": repr,
    "str": str,
    "format": format,
    "enter": lambda item: item.__enter__(),
    "len": len,
    "iter": iter,
    "next": next,
    "reversed": reversed,
    "int": int,
    "float": float,
    "bytes": bytes,
    "round": round,
    "divmod": divmod,
    "setattr": setattr,
    "delattr": delattr,
    "isinstance": lambda item, instance: isinstance(instance, item),
    "issubclass": lambda item, other: issubclass(other, item),
}
