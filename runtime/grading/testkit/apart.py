"""The tests' side of a test run whose code under test lives in another process, as another user.

Modules of the repository that are not the tests' own are never imported here: an import finds a stand-in whose
functions ask the other process. Only plain data come back (``plain.py``), so an answer cannot compare, print or unwind
itself; it is right or wrong. What cannot be asked so (classes, callbacks, patching) fails with ``NotPlain``: whoever
grades finds out beforehand, with work that is known to be right, which tests can be run this way.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.util
import os
import socket
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


class Gone(Exception):
    """The process of the code under test has ended, or was given up after a test ran out of time."""


class Solution:
    """The other process, as its orders and answers. modules: names at the top that may have stand-ins."""

    def __init__(self, connection: socket.socket, modules: Sequence[str] = ()) -> None:
        self._connection = connection
        self._modules = frozenset(modules)
        self._submodules: dict[str, StandIn] = {}
        self._usable = True
        self._owner = os.getpid()
        self._exceptions: dict[tuple[str, str, str], type[BaseException]] = {}

    def limit(self, cpu_sec: float) -> None:
        self._ask(["limit", cpu_sec])

    def load(self, name: str) -> bool:
        """Import a module over there. True if it is a package. Raises what its import raised."""
        return self._ask(["import", name])[-1] is True

    def attribute(self, module: str, name: str) -> Any:
        answer = [*self._ask(["get", module, name]), "", "", ""]
        kind = answer[0]
        if kind == "value":
            return plain.decode(answer[1])
        if kind == "function":
            return self._function(module, name, str(answer[1]), str(answer[2]))
        if kind == "submodule":
            return self._submodule(str(answer[1]))
        if kind == "exception":
            return self._exception(*map(str, answer[1:4]))
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    def _submodule(self, name: str) -> StandIn:
        """A stand-in whatever the name, and never an import: the other side chose it."""
        if name.partition(".")[0] not in self._modules:
            raise plain.NotPlain(f"{name!r} is no module of the repository")
        if name not in self._submodules:
            found = sys.modules.get(name)
            self._submodules[name] = found if type(found) is StandIn else StandIn(name, self)
        return self._submodules[name]

    def _function(self, module: str, name: str, own_name: str, doc: str) -> Callable[..., Any]:
        def function(*arguments: Any, **keywords: Any) -> Any:
            given = [plain.encode(item) for item in arguments]
            named = {key: plain.encode(item) for key, item in keywords.items()}
            answer = self._ask(["call", module, name, given, named])
            try:
                _, result, changes = answer
                for place, item in changes.items():
                    _update(arguments[int(place)], plain.decode(item))
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise plain.NotPlain(f"malformed answer: {error}") from error
            return plain.decode(result)

        function.__name__ = function.__qualname__ = own_name or name
        function.__module__, function.__doc__ = module, doc
        return function

    def _ask(self, order: list[Any]) -> list[Any]:
        if not self._usable or os.getpid() != self._owner:
            raise Gone("the process of the code under test cannot be asked any more")
        self._usable = False  # a test that runs out of time interrupts us here, and answers would be out of step
        try:
            plain.send(self._connection, order)
            answer = plain.receive(self._connection)
        except OSError as error:
            raise Gone("the process of the code under test ended") from error
        if answer is None:
            raise Gone("the process of the code under test ended")
        self._usable = True
        if answer[0] == "no":
            raise plain.NotPlain(str(answer[1:])[:200])
        if answer[0] == "raised":
            raise self._rebuilt(answer)
        return answer

    def _rebuilt(self, answer: list[Any]) -> BaseException:
        if len(answer) != 6 or type(answer[4]) is not list:
            return plain.NotPlain("malformed answer")
        kind = self._exception(*map(str, answer[1:4]))
        arguments = [plain.decode(item) for item in answer[4]]
        try:
            return kind(*arguments)
        except Exception:  # a class with arguments of its own
            error = kind.__new__(kind)
            error.args = (str(answer[5]),)
            return error

    def _exception(self, module: str, name: str, base: str) -> type[BaseException]:
        above: Any = getattr(builtins, base, Exception)
        if not (isinstance(above, type) and issubclass(above, BaseException)):
            above = Exception
        found: type[BaseException] = above
        if module == "builtins":
            return found
        key = (module, name, base)
        if key not in self._exceptions:
            self._exceptions[key] = type(name, (found,), {"__module__": module})
        return self._exceptions[key]


def _update(old: Any, new: Any) -> None:
    """Make a list or table of the caller's equal to what the other side made of its copy."""
    if type(old) is not type(new):
        raise plain.NotPlain("an argument changed its type")
    if type(old) in (list, bytearray):
        old[:] = new
    elif type(old) in (dict, set):
        old.clear()
        old.update(new)
    else:
        raise plain.NotPlain("an argument changed that cannot change")


class StandIn(types.ModuleType):
    """A module of the code under test, as the tests see it."""

    def __init__(self, name: str, solution: Solution) -> None:
        super().__init__(name)
        self.__dict__["_solution"] = solution

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__version__", "__author__", "__all__"):
            raise AttributeError(name)
        return self.__dict__["_solution"].attribute(self.__name__, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("__") or isinstance(value, types.ModuleType):
            super().__setattr__(name, value)  # what the import system notes on modules
        else:
            raise plain.NotPlain("a test patches the code under test")


class Finder:
    """First on ``sys.meta_path``. From ``root`` come the ``trusted`` files alone; ``modules``, names at the top that
    the repository is known to have, become stand-ins; all others are looked for outside of ``root``.
    """

    def __init__(
        self, solution: Solution, root: str, folders: Sequence[str], trusted: Sequence[str], modules: Sequence[str]
    ) -> None:
        self._loader: Any = _Loader(solution)
        self._folders = list(folders)
        self._root = root
        self._trusted = {os.path.join(root, path) for path in trusted}
        self._modules = frozenset(modules)

    def find_spec(self, name: str, path: Any = None, target: object = None) -> Any:
        if name.partition(".")[0] not in self._modules:
            return outside(name, path, self._root)
        parts = name.replace(".", os.sep)
        for folder in self._folders:
            base = os.path.join(folder, parts)
            for file, package in ((os.path.join(base, "__init__.py"), True), (base + ".py", False)):
                if file in self._trusted:
                    return importlib.util.spec_from_file_location(
                        name, file, submodule_search_locations=[base] if package else None
                    )
                if os.path.lexists(file):
                    return importlib.machinery.ModuleSpec(name, self._loader, is_package=package)
            if os.path.isdir(base) and name not in sys.builtin_module_names:
                if any(file.startswith(base + os.sep) for file in self._trusted):
                    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
                    spec.submodule_search_locations = [base]
                    return spec
                if name.partition(".")[0] not in sys.stdlib_module_names:
                    return importlib.machinery.ModuleSpec(name, self._loader, is_package=True)
        return outside(name, path, self._root)


def outside(name: str, path: Any, root: str) -> Any:
    """Where a module is found that is no part of ``root``. Raises ``ModuleNotFoundError``: nobody is asked after us."""
    for finder in (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter):
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    places = [place for place in (sys.path if path is None else path) if _is_outside(place, root)]
    spec = importlib.machinery.PathFinder.find_spec(name, places)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return spec


def _is_outside(place: object, root: str) -> bool:
    folder = os.path.realpath(str(place) or os.curdir)
    return not f"{folder}/".startswith(f"{root}/")


class Precedence:
    """First on ``sys.meta_path`` where tests and code under test share a process: a new file of the repository does
    not stand in for a module that is there without it. ``modules``: names at the top that the repository may have.
    """

    def __init__(self, root: str, modules: Sequence[str]) -> None:
        self._root = root
        self._modules = frozenset(modules)

    def find_spec(self, name: str, path: Any = None, target: object = None) -> Any:
        if path is not None or name in self._modules:
            return None
        try:
            return outside(name, None, self._root)
        except ModuleNotFoundError:
            return None


class _Loader:
    def __init__(self, solution: Solution) -> None:
        self._solution = solution

    def create_module(self, spec: Any) -> types.ModuleType:
        return StandIn(spec.name, self._solution)

    def exec_module(self, module: types.ModuleType) -> None:
        self._solution.load(module.__name__)


def install(
    descriptor: int,
    root: str,
    folders: Sequence[str],
    trusted: Sequence[str],
    modules: Sequence[str],
    *,
    cpu_sec: float,
) -> None:
    """From here on this process imports nothing from ``folders`` but ``trusted`` (paths below ``root``).

    cpu_sec: of the processor, for one answer of the other process.
    """
    solution = Solution(socket.socket(fileno=descriptor), modules)
    solution.limit(cpu_sec)
    finder: Any = Finder(solution, root, folders, trusted, modules)
    sys.meta_path.insert(0, finder)


def keep_precedence(root: str, modules: Sequence[str]) -> None:
    guard: Any = Precedence(root, modules)
    sys.meta_path.insert(0, guard)
