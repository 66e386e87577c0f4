"""What the tests' process lends to the code under test: functions that it may call, and errors that it may pass on.

Only functions of the tests' own files and methods of built-in containers are lent, each under a number; functions of
the code under test and of the standard library go by their names, and run over there. It knows no transport.
"""

from __future__ import annotations

import builtins
import sys
import types

if __package__:
    from . import plain
else:  # beside a runner that was started as a program
    import plain  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_CONTAINERS = ("list", "dict", "set", "deque", "bytearray")


class Lent:
    """files: whose functions are the tests' own. running: says where the tests are."""

    def __init__(self, files: Sequence[str], running: Callable[[], str]) -> None:
        self._files = frozenset(files)
        self._running = running
        self._functions: list[Any] = []
        self._names: list[str] = []
        self._errors: list[BaseException] = []
        self._known: dict[int, tuple[object, list[Any]]] = {}

    def know(self, item: object, name: list[Any]) -> None:
        """``item`` stands for something over there."""
        self._known[id(item)] = (item, name)

    def refer(self, value: object) -> list[Any]:
        """The data for a value that has no plain form. Raises ``NotPlain``."""
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        name = str(getattr(value, "__qualname__", ""))
        if self._is_own(value):
            numbers = [number for number, one in enumerate(self._functions) if one is value]
            if not numbers:
                self._functions.append(value)
                self._names.append(self._name(value))
            number = numbers[0] if numbers else len(self._functions) - 1
            return ["fn", number, name.rpartition(".")[2], parameters(value)]
        module = str(getattr(value, "__module__", None) or "")
        owner = getattr(value, "__objclass__", None)
        module = module or str(getattr(owner, "__module__", ""))
        standard = module in sys.stdlib_module_names and type(sys.modules.get(module)) is types.ModuleType
        if standard and _found(module, name) is value:
            return ["std", module, name]
        raise plain.NotPlain(f"a value of type {type(value).__name__}")

    def _is_own(self, value: object) -> bool:
        if isinstance(value, types.MethodType):
            value = value.__func__
        if isinstance(value, types.FunctionType):
            return value.__code__.co_filename in self._files
        if isinstance(value, types.BuiltinMethodType):
            return type(value.__self__).__name__ in _CONTAINERS and type(value.__self__).__module__ in (
                "builtins",
                "collections",
            )
        return False

    def _name(self, value: Any) -> str:
        """The same in every run: by its own code, or for a method of a container by where it was lent."""
        code = getattr(getattr(value, "__func__", value), "__code__", None)
        if code is None:
            return f"{self._running()} {value.__name__}"
        return f"{code.co_filename}:{getattr(code, 'co_qualname', code.co_name)}"

    def name(self, number: Any) -> str:
        return self._names[number] if type(number) is int and 0 <= number < len(self._names) else ""

    def function(self, number: Any) -> Any:
        if type(number) is not int or not 0 <= number < len(self._functions):
            raise plain.NotPlain("malformed data")
        return self._functions[number]

    def threw(self, error: BaseException) -> list[Any]:
        """What the other side is told of an error of ours: number, module and name of its class, arguments, text."""
        if not any(one is error for one in self._errors):
            self._errors.append(error)
        number = next(place for place, one in enumerate(self._errors) if one is error)
        known = self._known.get(id(type(error)))
        module, name = known[1][1:] if known is not None else (type(error).__module__, type(error).__qualname__)
        base = next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"), "Exception")
        try:
            arguments = [plain.encode(argument) for argument in error.args]
        except plain.NotPlain:
            arguments = [str(error)]
        return [number, str(module), str(name), base, arguments]

    def thrown(self, answer: list[Any]) -> BaseException:
        """An error of ours that came back."""
        number = answer[0] if answer else None
        if type(number) is not int or not 0 <= number < len(self._errors):
            return plain.NotPlain("malformed answer")
        return self._errors[number]


def parameters(function: Any) -> list[list[Any]]:
    """Name, kind (as ``inspect`` counts them) and whether there is a default, of each parameter of a function of the
    tests' own; of other functions nothing is known."""
    if isinstance(function, types.BuiltinMethodType):  # ``($self, object, /)``
        text = str(getattr(function, "__text_signature__", None) or "").strip("()").split(", ")
        return [[name, 0, False] for name in text[1:-1]] if text[-1] == "/" and "=" not in "".join(text) else []
    bound = isinstance(function, types.MethodType)
    function = function.__func__ if bound else function
    if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        return []
    code, defaults, named = function.__code__, len(function.__defaults__ or ()), function.__kwdefaults__ or {}
    names, place, only = code.co_varnames, code.co_argcount, code.co_kwonlyargcount
    found = [
        [name, 0 if at < code.co_posonlyargcount else 1, at >= place - defaults]
        for at, name in enumerate(names[:place])
    ]
    rest = place + only
    if code.co_flags & 4:
        found.append([names[rest], 2, False])
    found += [[name, 3, name in named] for name in names[place:rest]]
    if code.co_flags & 8:
        found.append([names[rest + bool(code.co_flags & 4)], 4, False])
    return found[bound:]


def _found(module: str, name: str) -> object:
    value: object = builtins if module == "builtins" else sys.modules[module]
    for part in name.split("."):
        value = getattr(value, part, None)
    return value
