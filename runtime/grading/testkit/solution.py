"""The process in which the code under test runs apart from its tests: imports modules and calls functions on order.

It runs as another user than the tests and has neither their files nor their memory. Orders and answers are plain data
(``plain.py``): ``["limit", seconds]``, ``["import", module]``, ``["get", module, name]``,
``["member", object, name]``, ``["call", WHAT, arguments, keywords]``, ``["special", object, name, arguments]``,
``["items", object]``, ``["leave", object, error]``.
While it carries one out it may ask for a function of the tests: ``["callback", function, arguments, keywords]``.
It knows no tests; whatever the code under test does to this process, it can only answer wrongly.
"""

from __future__ import annotations

import builtins
import importlib
import os
import signal
import sys
import tempfile
import types
from _thread import allocate_lock

from . import plain, warm
from .mini import add_site_builtins, forget_modules
from .objects import perform

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    import socket
    from collections.abc import Callable, Sequence
    from typing import Any

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, type(os.stat), types.MethodType)
_WRAPPED = "functools"
_ERROR = "_liverl_error"


def start(connection: socket.socket, root: str, folders: Sequence[str]) -> None:
    """Be that process until the other side hangs up. folders: where modules are looked for before anywhere else."""
    warm.install(root)
    add_site_builtins()
    forget_modules(folders)
    os.chdir(root)
    sys.path[:] = [*folders, *(path for path in sys.path if path and path not in folders)]
    sys.dont_write_bytecode = True
    _be_at_home()
    _Server(connection).serve()


def _be_at_home() -> None:
    """A second user has no account, and programs want a name and a home that they may write to."""
    if not os.access(os.path.expanduser("~"), os.W_OK):
        os.environ.setdefault("LOGNAME", "user")
        try:
            os.environ["HOME"] = tempfile.mkdtemp(prefix="home-")
        except OSError:
            return


class _Gone(BaseException):
    """The other side has hung up."""


class _Server:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._cpu_sec = 0.0
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        # Whose turn it is to speak: nobody's while the code under test runs, whose threads may all call back.
        self._turn = allocate_lock()

    def serve(self) -> None:
        self._turn.acquire()
        try:
            while True:
                self._answer(self._received())
        except _Gone:
            return

    def _received(self) -> list[Any]:
        order = plain.receive(self._connection)
        if order is None:
            raise _Gone
        return order

    def _answer(self, order: list[Any]) -> None:
        if order[0] == "limit":
            self._cpu_sec = float(order[1])
            plain.send(self._connection, ["limited"])
            return
        # An endless loop ends this process, and so every test that asks it: the clock of the tests is more patient.
        signal.setitimer(signal.ITIMER_PROF, self._cpu_sec)
        self._turn.release()
        try:
            answer = self._obey(order)
        except plain.NotPlain as error:
            answer = ["no", str(error)]
        except _Gone:
            raise
        except BaseException as error:  # of the code under test: the tests may expect it
            answer = self._raised(error)
        finally:
            self._turn.acquire()
        try:
            plain.send(self._connection, answer)
        except plain.NotPlain as error:
            plain.send(self._connection, ["no", str(error)[:200]])

    def _obey(self, order: list[Any]) -> list[Any]:
        kind = order[0]
        if kind == "import":
            module = importlib.import_module(order[1])
            return ["module", hasattr(module, "__path__")]
        if kind == "get":
            return self._described(_attribute(sys.modules[order[1]], order[2]))
        if kind == "member":
            return self._described(_attribute(self._kept[order[1]], order[2]))
        if kind == "special":
            arguments = [self._decoded(item) for item in order[3]]
            return ["value", self._encoded(perform(self._kept[order[1]], order[2], arguments)), {}]
        if kind == "items":
            return ["value", self._encoded(plain.items_of(self._kept[order[1]])), {}]
        if kind == "leave":
            told = order[2]
            error = None if told is None else self._told(told)
            return ["left", bool(self._kept[order[1]].__exit__(type(error) if told else None, error, None))]
        value: Any = self._decoded(order[1])
        given = [self._decoded(item) for item in order[2]]
        keywords = {key: self._decoded(item) for key, item in order[3].items()}
        before = [plain.encode(item, refer=self._refer) for item in given]
        result = self._encoded(value(*given, **keywords))
        after = [plain.encode(item, refer=self._refer) for item in given]
        # A function may change the lists and tables that it was given: the caller's own are changed alike.
        return ["value", result, {str(place): item for place, item in enumerate(after) if item != before[place]}]

    def _described(self, value: Any) -> list[Any]:
        if value is _MISSING:
            return ["missing"]
        if isinstance(value, types.ModuleType):
            return ["submodule", value.__name__, hasattr(value, "__path__")]
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", *_names(value)]
        if isinstance(value, type):
            return ["class", self._number(value)]
        if isinstance(value, _FUNCTIONS) or (callable(value) and type(value).__module__ == _WRAPPED):
            return ["function", str(getattr(value, "__name__", "")), getattr(value, "__doc__", None) or ""]
        return ["value", self._encoded(value), {}, callable(value)]

    def _encoded(self, value: object) -> Any:
        return plain.encode(value, refer=self._refer, iterators=True)

    def _refer(self, value: object) -> list[Any]:
        if isinstance(value, types.ModuleType):
            raise plain.NotPlain("a module")
        for number, function in self._functions.items():
            if function is value:
                return ["fn", number]
        base = plain.base_of(value)
        try:
            shown = None if base is None else plain.encode(base, refer=self._refer)
        except (plain.NotPlain, RecursionError):
            shown = None
        return ["k" if isinstance(value, type) else "o", self._number(value), shown]

    def _number(self, value: object) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._kept)
            self._kept.append(value)  # for good, so that no other object ever has its identity
        return number

    def _decoded(self, data: Any) -> Any:
        return plain.decode(data, resolve=self._resolve)

    def _resolve(self, data: list[Any]) -> Any:
        tag, *rest = data
        if tag == plain.NO_NUMBER:
            return float("nan")
        if tag == plain.ENDLESS:
            return rest[0]
        if tag == "o":
            return self._kept[rest[0]]
        if tag == "fn":
            return self._callback(*rest)
        if tag == "g":
            return getattr(sys.modules[rest[0]], rest[1])
        if tag == "q":
            return getattr(self._kept[rest[0]], rest[1])
        value: Any = builtins if rest[0] == "builtins" else importlib.import_module(rest[0])
        for part in rest[1].split("."):
            value = getattr(value, part)
        return value

    def _callback(self, number: int, name: str, parameters: Sequence[Sequence[Any]] = ()) -> Callable[..., Any]:
        """A function of the tests, as the code under test sees it."""
        if number not in self._functions:

            def callback(*arguments: Any, **keywords: Any) -> Any:
                given = [self._encoded(item) for item in arguments]
                named = {key: self._encoded(item) for key, item in keywords.items()}
                with self._turn:
                    plain.send(self._connection, ["callback", number, given, named])
                    while True:
                        order = self._received()
                        if order[0] in ("returned", "threw"):
                            break
                        self._answer(order)
                if order[0] == "threw":
                    raise self._told(order[1])
                return self._decoded(order[1])

            callback.__name__ = callback.__qualname__ = name
            if parameters:
                callback.__signature__ = _signature(parameters)  # type: ignore[attr-defined]
            self._functions[number] = callback
        return self._functions[number]

    def _told(self, told: list[Any]) -> BaseException:
        """An error of the tests' process, of the class that this process has for it."""
        number, module, name, base, arguments = told
        kind: Any = getattr(sys.modules.get(module), name, None)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            kind = type(name, (getattr(builtins, base, Exception),), {"__module__": module})
        given = [self._decoded(item) for item in arguments]
        try:
            error = kind(*given)
        except Exception:
            error = kind.__new__(kind)
        setattr(error, _ERROR, number)
        assert isinstance(error, BaseException)
        return error

    def _raised(self, error: BaseException) -> list[Any]:
        thrown = getattr(error, _ERROR, None)
        if thrown is not None:
            return ["thrown", thrown]
        try:
            arguments = [plain.encode(argument, refer=self._refer) for argument in error.args]
        except plain.NotPlain:
            arguments = [str(error)]
        more = {}
        kind = type(error)
        for name in dict.fromkeys((*vars(error), *_shown_by_class(kind))):
            try:
                more[str(name)] = plain.encode(getattr(error, name), refer=self._refer)
            except Exception:  # what cannot cross, and properties that fail
                continue
        above = [_names(one) for one in kind.__mro__[1:] if issubclass(one, BaseException)]
        own = [names for names in above if names[0] != "builtins"]
        return ["raised", *_names(kind), arguments, _text(error), more, own]


def _shown_by_class(kind: type[BaseException]) -> list[str]:
    """What an error has that is not in its own table: slots, properties, values of its class."""
    routines = (classmethod, staticmethod)
    return [
        name
        for one in kind.__mro__
        if one.__module__ != "builtins"
        for name, value in vars(one).items()
        if not name.startswith("_") and not callable(value) and not isinstance(value, routines)
    ]


def _text(error: BaseException) -> str:
    try:
        return str(error)[: plain.MAX_TEXT]
    except Exception:
        return ""


def _signature(parameters: Sequence[Sequence[Any]]) -> inspect.Signature:
    """Names, kinds and whether there is a default: what a function of the tests shows to who looks at it."""
    import inspect  # most code under test does not

    kinds = list(inspect._ParameterKind)
    made = [
        inspect.Parameter(name, kinds[kind], default=None if default else inspect.Parameter.empty)
        for name, kind, default in parameters
    ]
    return inspect.Signature(made)


def _attribute(item: object, name: str) -> object:
    try:
        return getattr(item, name)
    except AttributeError:
        return _MISSING


_MISSING = object()


def _names(kind: type) -> list[Any]:
    """Names of an exception's class: module, name, and the first built-in class above it."""
    base = next((above.__name__ for above in kind.__mro__ if above.__module__ == "builtins"), "Exception")
    return [str(kind.__module__), str(kind.__qualname__), base]
