"""The process in which the code under test runs apart from its tests: imports modules and calls functions on order.

It runs as another user than the tests and has neither their files nor their memory. Orders and answers are plain data
(``plain.py``): ``["limit", seconds]``, ``["import", module]``, ``["get", module, name]``, ``["call", module, name,
arguments, keywords]``.
It knows no tests; whatever the code under test does to this process, it can only answer wrongly.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import types

from . import plain, warm
from .mini import forget_modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, type(os.stat), types.MethodType)
_WRAPPED = "functools"


def start(connection: socket.socket, root: str, folders: Sequence[str]) -> None:
    """Be that process until the other side hangs up. folders: where modules are looked for before anywhere else."""
    warm.install(root)
    forget_modules(folders)
    os.chdir(root)
    sys.path[:] = [*folders, *(path for path in sys.path if path and path not in folders)]
    sys.dont_write_bytecode = True
    _serve(connection)


def _serve(connection: socket.socket) -> None:
    cpu_sec = 0.0
    while True:
        order = plain.receive(connection)
        if order is None:
            return
        if order[0] == "limit":
            cpu_sec = float(order[1])
            plain.send(connection, ["limited"])
            continue
        # An endless loop ends this process, and so every test that asks it: the clock of the tests is more patient.
        signal.setitimer(signal.ITIMER_PROF, cpu_sec)
        try:
            answer = _obey(order)
        except plain.NotPlain as error:
            answer = ["no", str(error)]
        except BaseException as error:  # of the code under test: the tests may expect it
            answer = _raised(error)
        try:
            plain.send(connection, answer)
        except plain.NotPlain as error:
            plain.send(connection, ["no", str(error)[:200]])


def _obey(order: list[Any]) -> list[Any]:
    kind, name = order[0], order[1]
    if kind == "import":
        module = importlib.import_module(name)
        return ["module", hasattr(module, "__path__")]
    value: Any = _attribute(name, order[2])
    if kind == "get":
        return _described(value)
    given = [plain.decode(item) for item in order[3]]
    keywords = {key: plain.decode(item) for key, item in order[4].items()}
    before = [plain.encode(item) for item in given]
    result = plain.encode(value(*given, **keywords), iterators=True)
    after = [plain.encode(item) for item in given]
    # A function may change the lists and tables that it was given: the caller's own are changed alike.
    return ["value", result, {str(place): item for place, item in enumerate(after) if item != before[place]}]


def _attribute(module: str, name: str) -> object:
    try:
        return getattr(sys.modules[module], name)
    except AttributeError:
        return _MISSING


_MISSING = object()


def _described(value: object) -> list[Any]:
    if value is _MISSING:
        return ["missing"]
    if isinstance(value, types.ModuleType):
        return ["submodule", value.__name__, hasattr(value, "__path__")]
    if isinstance(value, type) and issubclass(value, BaseException):
        return ["exception", *_names(value)]
    if isinstance(value, _FUNCTIONS) or (callable(value) and type(value).__module__ == _WRAPPED):
        return ["function", str(getattr(value, "__name__", "")), getattr(value, "__doc__", None) or ""]
    return ["value", plain.encode(value), {}]


def _names(kind: type) -> list[Any]:
    """Names of an exception's class: module, name, and the first built-in class above it."""
    base = next((above.__name__ for above in kind.__mro__ if above.__module__ == "builtins"), "Exception")
    return [str(kind.__module__), str(kind.__qualname__), base]


def _raised(error: BaseException) -> list[Any]:
    try:
        arguments = [plain.encode(argument) for argument in error.args]
    except plain.NotPlain:
        arguments = [str(error)]
    return ["raised", *_names(type(error)), arguments, str(error)[:1000]]
