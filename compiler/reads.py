"""What is read of a spec while a value is made from it: the value's origins.

``Reads.view`` stands in for a spec. It answers as the spec does, and whatever is asked of it is noted in the recordings
that are open. Knows no field of a spec and no artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast, get_args, overload

from compiler.errors import Path, dotted
from compiler.spec.experiment import ExperimentSpec
from runtime.config.base import Model

T = TypeVar("T")
Noted = dict[Path, bool]
"""Path -> whether the value there was read. If not, only that it is there was: what a list holds how many of, whether a
part was left out."""


class Reads:
    """The recordings of one spec. Those that are open at a time lie in each other: an inner one keeps what it notes to
    itself."""

    def __init__(self, spec: ExperimentSpec) -> None:
        self._spec = spec
        self.open: list[Noted] = []
        """The innermost last: it gets what is read."""

    @property
    def view(self) -> ExperimentSpec:
        return cast(ExperimentSpec, _View(self._spec, (), self))

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The spec as plain values, defaults filled in. Not to be changed: several files are made from it."""
        return self._spec.model_dump(mode="json", warnings=False)

    def during(self, make: Callable[[], T]) -> tuple[T, Noted]:
        """What ``make`` returns, and what it read."""
        noted: Noted = {}
        self.open.append(noted)
        try:
            return make(), noted
        finally:
            self.open.pop()

    def once(self, make: Callable[[], T]) -> Callable[[], T]:
        """What ``make`` returns, to be had again: whoever asks reads what it read."""
        value, noted = self.during(make)

        def had() -> T:
            for path, read in noted.items() if self.open else ():
                self.note(path, value=read)
            return value

        return had

    def note(self, path: Path, *, value: bool = True) -> None:
        if self.open:
            noted = self.open[-1]
            noted[path] = value or noted.get(path, False)

    def at(self, path: Path) -> Any:
        """The plain value at a path."""
        node: Any = self.resolved
        for part in path:
            node = node[part]
        return node

    def plain(self, value: Any) -> Any:
        """A value as JSON has it. Parts of the view are read whole."""
        if type(value) in _VIEWS:
            self.note(value._path)
            return self.at(value._path)
        if isinstance(value, dict):
            return {name: self.plain(one) for name, one in value.items()}
        return [self.plain(one) for one in value] if isinstance(value, tuple | list) else value

    def seen(self, value: Any, path: Path, *, optional: bool = False) -> Any:
        """What the view answers where the spec has ``value``."""
        if isinstance(value, Model):
            if optional:
                self.note(path, value=False)
            return _View(value, path, self)
        if isinstance(value, dict) and value:
            return _Entries(value, path, self)
        if isinstance(value, tuple) and value and isinstance(value[0], Model):
            return _Items(value, path, self)
        self.note(path)
        return value


def joined(*recordings: Noted) -> Noted:
    """All that was noted, in order."""
    first, *others = [noted for noted in recordings if noted] or [{}]
    if not others:
        return first
    found = dict(first)
    for noted in others:
        for path, value in noted.items():
            found[path] = value or found.get(path, False)
    return found


def narrowest(noted: Noted) -> tuple[str, ...]:
    """The origins as people read them, without those that others say already: what lies in a part that was read whole,
    and that something is there of which more was read."""
    holders = {path[:length] for path in noted for length in range(1, len(path))}
    if holders.isdisjoint(noted):
        return tuple(map(_dotted, noted))
    return tuple(
        _dotted(path)
        for path, value in noted.items()
        if (value or path not in holders) and not any(noted.get(path[:length], False) for length in range(1, len(path)))
    )


_dotted = cache(dotted)


class _Part:
    """A part of a spec that holds others."""

    __slots__ = ("_path", "_reads", "_value")

    def __init__(self, value: Any, path: Path, reads: Reads) -> None:
        self._value, self._path, self._reads = value, path, reads

    def _whole(self) -> Any:
        self._reads.note(self._path)
        return self._value

    def __eq__(self, other: object) -> bool:
        return bool(self._whole() == (other._whole() if isinstance(other, _Part) else other))

    def __hash__(self) -> int:
        return hash(self._whole())

    def __str__(self) -> str:
        return str(self._whole())

    def __repr__(self) -> str:
        return repr(self._whole())


class _View(_Part):
    """In place of a model. Which kind of model it is counts as reading its ``type``."""

    __slots__ = ()

    if not TYPE_CHECKING:

        @property
        def __class__(self) -> type:
            kind = type(self._value)
            if "type" in kind.model_fields:
                self._reads.note((*self._path, "type"))
            return kind

        def __getattr__(self, name: str) -> Any:
            model = self._value
            value = model.__dict__.get(name, model)
            if type(value) in _LEAVES:  # most are: this is where the time goes
                if self._reads.open:
                    self._reads.note((*self._path, name))
                return value
            optional = _fields(type(model)).get(name)
            if optional is not None:
                return self._reads.seen(getattr(model, name), (*self._path, name), optional=optional)
            if not name.startswith("__"):
                self.__class__  # noqa: B018 - that there is no such field depends on the kind
            return getattr(model, name)


class _Several(_Part):
    """In place of what holds any number. How many and which there are is read by asking, not by what they are."""

    __slots__ = ()

    def _there(self) -> Any:
        self._reads.note(self._path, value=False)
        return self._value

    def __len__(self) -> int:
        return len(self._there())


class _Items(_Several, Sequence[Any]):
    """In place of a list of models."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        return self._reads.seen(self._value[index], (*self._path, index))

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))


class _Entries(_Several, Mapping[str, Any]):
    """In place of a mapping with free keys."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        value = self._there()[name]
        self._reads.note((*self._path, name))
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._there())


_VIEWS = frozenset({_View, _Items, _Entries})
_LEAVES = frozenset({str, int, float, bool, NoneType})


@cache
def _fields(model: type[Model]) -> Mapping[str, bool]:
    """Field -> whether it may be null."""
    return {name: NoneType in get_args(field.annotation) for name, field in model.model_fields.items()}


class Recorded(Protocol):
    """What has the recordings of a spec."""

    @property
    def reads(self) -> Reads: ...


class derived(Generic[T]):
    """A property that is computed once. Whoever reads it reads what it was computed from."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._key = f"derived {name}"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Recorded, owner: type) -> T: ...

    def __get__(self, instance: Recorded | None, owner: type) -> Self | T:
        if instance is None:
            return self
        kept: dict[str, Callable[[], T]] = instance.__dict__
        if self._key not in kept:
            kept[self._key] = instance.reads.once(lambda: self._function(instance))
        return kept[self._key]()
