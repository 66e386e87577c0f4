"""The tests' side of a test run whose code under test lives in another process, as another user.

Modules of the repository that are not the tests' own are never imported here: an import finds a stand-in whose
functions ask the other process. Plain data come back (``plain.py``), so an answer cannot compare, print or unwind
itself; it is right or wrong. An object comes back as a number, and only where the known solution gave one
(``objects.py``); functions of the tests are lent to the other side (``lent.py``). What cannot be asked so (patching,
derived classes, captured output) fails with ``NotPlain``: whoever grades finds out beforehand, with work that is known
to be right, which tests can be run this way, and at which places objects come.
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
    from .lent import Lent
    from .objects import Class, Object, items
else:  # beside a runner that was started as a program
    import plain  # type: ignore[import-not-found,no-redef]
    from lent import Lent  # type: ignore[import-not-found,no-redef]
    from objects import Class, Object, items  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any

_ENDS: tuple[type[BaseException], ...] = (StopIteration, StopAsyncIteration, GeneratorExit)
"""What a test's ``map`` or ``zip`` takes for its own end, whoever raises it."""
_CALLED_BACK = "argument of a callback"
"""The one place that is the same for all functions: when it calls back is the solution's affair."""


UNFIT: dict[str, Any] = {"type": "NotPlain", "message": "what was refused is no error of the solution's", "frames": []}


class Gone(Exception):
    """The process of the code under test has ended, or was given up after a test ran out of time."""


def _noted(method: Any) -> Any:
    """A test may wait for any error, and so take our refusal or the end of the other process for one of its."""

    def noted(self: Solution, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except (plain.NotPlain, Gone):
            self.unfit |= not self._may("refuses")
            raise

    return noted


class Solution:
    """The other process, as its orders and answers. modules: names at the top that may have stand-ins. trusted: files
    whose functions may be called from over there, as callbacks. places: where objects may come from, and what else only
    the known solution may do (None: anywhere, and ``seen`` gets to know where it was; ``refused``: where it was and may
    not be). ``changed``: where an argument changed that the known solution leaves alone; keep_arguments: those do not.
    ``unfit``: since it was last looked at, something was refused: a test that passes all the same has not passed."""

    def __init__(
        self,
        connection: socket.socket,
        modules: Sequence[str] = (),
        *,
        trusted: Sequence[str] = (),
        places: Sequence[str] | None = None,
        keep_arguments: bool = False,
    ) -> None:
        self._connection = connection
        self._modules = frozenset(modules)
        self._submodules: dict[str, StandIn] = {}
        self._usable = True
        self._owner = os.getpid()
        self._exceptions: dict[tuple[str, str, str], type[BaseException]] = {}
        self._objects: dict[int, Object] = {}
        self._lent = Lent(trusted)
        self._trusted = frozenset(trusted)
        self._places = None if places is None else frozenset(places)
        self._keep_arguments = keep_arguments
        self.seen: set[str] = set()
        self.refused: set[str] = set()
        self.changed: set[str] = set()
        self.unfit = False

    def limit(self, cpu_sec: float) -> None:
        self._ask(["limit", cpu_sec])

    @_noted
    def load(self, name: str) -> bool:
        """Import a module over there. True if it is a package. Raises what its import raised."""
        return self._ask(["import", name])[-1] is True

    @_noted
    def attribute(self, module: str, name: str) -> Any:
        answer = self._ask(["get", module, name])
        if answer[0] == "missing":
            if name == "__all__" and (known := self._exported(module)):
                return known  # without one all that is public is taken, and so at least this
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        found = self._described(answer, f"{module}:{name}", ["g", module, name])
        if name == "__all__" and type(found) in (list, tuple):
            # What a test takes whole is what the known solution has: ``abs`` and ``pytest`` stay what they were.
            return [one for one in found if type(one) is str and self._may(f"{module} exports {one}", ask=False)]
        return found

    def _exported(self, module: str) -> list[str]:
        """What the known solution's module gave to whoever took it whole, here."""
        before = f"{self._running()} {module} exports "
        return sorted(place[len(before) :] for place in self._places or () if place.startswith(before))

    @_noted
    def member(self, number: int, name: str) -> Any:
        answer = self._ask(["member", number, name])
        if answer[0] == "missing":
            raise AttributeError(f"the object has no attribute {name!r}")
        return self._described(answer, f".{name}", ["q", number, name])

    @_noted
    def special(self, number: int, name: str, *arguments: Any) -> Any:
        """What an operator or built-in function gives for an object (``objects.py``)."""
        answer = self._ask(["special", number, name, [self._encoded(item) for item in arguments]])
        return self._decoded(answer[1], f"__{name}__")

    def invoke(self, item: Object, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        number: int = item._apart[1]
        place = "class()" if type(item) is Class else "()"
        return self._call(["o", number], place, arguments, keywords)

    @_noted
    def leave(self, number: int, error: BaseException | None) -> bool:
        """The end of a ``with``: whether the other side swallows ``error``, which it may where the known solution did,
        and never the failure of an assertion."""
        told = None if error is None else self._lent.threw(error)
        swallowed = self._ask(["leave", number, told])[-1] is True
        if error is None or not swallowed or not isinstance(error, Exception):
            return False
        return not isinstance(error, (AssertionError, plain.NotPlain, Gone)) and self._may("a with swallows")

    def _described(self, answer: list[Any], place: str, origin: list[Any]) -> Any:
        kind: str = answer[0]
        rest = [*answer[1:], "", "", ""]
        if kind == "value":
            try:
                return self._decoded(rest[0], place)
            except plain.NotPlain:
                if rest[2] is not True:
                    raise
            kind, rest = "function", ["", ""]  # an object in the place of a function is good for being called
        if kind == "function":
            return self._function(place, origin, str(rest[0]), str(rest[1]))
        if kind == "submodule" and origin[0] == "g":
            return self._submodule(str(rest[0]))
        if kind == "exception":
            found = self._exception(*map(str, rest[:3]))
            # Whoever waits for it would catch what says that a test has failed.
            if not issubclass(AssertionError, found) or self._may(f"{found.__name__} is {place}"):
                return found
        if kind == "class":
            if self._may(f"class {place}"):
                return self._object(rest[0], Class)
            return self._function(place, origin, "", "")
        raise plain.NotPlain(f"{kind}, where {place} is to be something else")

    def _submodule(self, name: str) -> StandIn:
        """A stand-in whatever the name, and never an import: the other side chose it."""
        if name.partition(".")[0] not in self._modules:
            raise plain.NotPlain(f"{name!r} is no module of the repository")
        if name not in self._submodules:
            found = sys.modules.get(name)
            self._submodules[name] = found if type(found) is StandIn else StandIn(name, self)
        return self._submodules[name]

    def _function(self, place: str, origin: list[Any], own_name: str, doc: str) -> Callable[..., Any]:
        def function(*arguments: Any, **keywords: Any) -> Any:
            return self._call(origin, f"{place}()", arguments, keywords)

        function.__name__ = function.__qualname__ = own_name or place
        function.__module__, function.__doc__ = place.partition(":")[0], doc
        self._lent.know(function, origin)
        return function

    @_noted
    def _call(self, what: list[Any], place: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        given = [self._encoded(item) for item in arguments]
        named = {key: self._encoded(item) for key, item in keywords.items()}
        answer = self._ask(["call", what, given, named])
        try:
            _, result, changes = answer
            for number, item in changes.items():
                new = self._decoded(item, f"argument of {place}")
                if not self._may(f"changes argument {int(number)} of {place}"):
                    self.changed.add(place)
                    if self._keep_arguments:
                        continue
                _update(arguments[int(number)], new)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise plain.NotPlain(f"malformed answer: {error}") from error
        return self._decoded(result, place)

    def _encoded(self, value: object) -> Any:
        return plain.encode(value, refer=self._refer)

    def _refer(self, value: object) -> list[Any]:
        if isinstance(value, Object):
            number: int = value._apart[1]
            return ["o", number]
        return self._lent.refer(value)

    def _decoded(self, data: Any, place: str) -> Any:
        def resolve(data: list[Any]) -> Any:
            if data[0] == "fn" and len(data) > 1:
                return self._lent.function(data[1])
            if data[0] == plain.NO_NUMBER:  # neither near to anything nor far from it
                if self._may(f"{plain.NO_NUMBER} {place}"):
                    return float("nan")
                raise plain.NotPlain(f"{plain.NO_NUMBER}, where {place} gives a number")
            if data[0] not in ("o", "k") or len(data) != 3:
                raise plain.NotPlain("malformed data")
            if self._may(place):
                return self._object(data[1], Class if data[0] == "k" else Object)
            if data[2] is not None:  # of a class of its own, and yet data
                return plain.decode(data[2], resolve=resolve)
            if data[0] == "o" and self._usable and type(data[1]) is int:
                try:
                    return items(plain.decode(self._ask(["items", data[1]])[1], resolve=resolve))
                except TypeError:
                    pass
            raise plain.NotPlain(f"an object, where {place} gives data")

        return plain.decode(data, resolve=resolve)

    def _may(self, place: str, *, ask: bool = True) -> bool:
        """Whether an object may come from there, at the place in the tests that is running: what ``get`` gives in one
        line is not what it gives in all. ask: whether the known solution may be asked once more."""
        running = self._running()
        where = place if place == _CALLED_BACK else f"{running} {place}"
        self.seen.add(where)
        if self._places is None or where in self._places:
            return True
        if place.endswith("()") and f"{running} class()" in self._places:
            named = f" class {place[:-2]}"  # a function in the place of a class of which an object is made here
            if any(one.endswith(named) for one in self._places):
                return True
        if ask:
            self.refused.add(where)
        return False

    def _running(self) -> str:
        """Where the innermost function of the tests' own files on the stack is; "" for none. By the code's own count:
        lines are moved by the noise around them."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename not in self._trusted:
            frame = frame.f_back
        if frame is None:
            return ""
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        return f"{code.co_filename}:{name}@{frame.f_lasti}"

    def _object(self, number: Any, kind: type[Object]) -> Object:
        if type(number) is not int:
            raise plain.NotPlain("malformed data")
        found = self._objects.get(number)
        if found is None or type(found) is not kind:
            found = self._objects[number] = kind(self, number)
        return found

    def _ask(self, order: list[Any]) -> list[Any]:
        if not self._usable or os.getpid() != self._owner:
            raise Gone("the process of the code under test cannot be asked any more")
        self._usable = False  # a test that runs out of time interrupts us here, and answers would be out of step
        failed: BaseException | None = None
        answer = self._said(order)
        while answer[0] == "callback":
            self._usable = True  # what is called may ask in its turn
            told, error = self._called(answer)
            failed = failed or error
            self._usable = False
            answer = self._said(told)
        self._usable = True
        if failed is not None:
            raise failed  # an assertion of the tests' own: nobody over there may swallow it
        if answer[0] == "no":
            raise plain.NotPlain(str(answer[1:])[:200])
        if answer[0] == "thrown":
            raise self._lent.thrown(answer[1:])
        if answer[0] == "raised":
            error = self._rebuilt(answer)
            if isinstance(error, _ENDS) and order[0::2][:2] != ["special", "next"] and not self._may("an end"):
                raise plain.NotPlain(f"{type(error).__name__}, where nothing is gone through")
            raise error
        return answer

    def _said(self, order: list[Any]) -> list[Any]:
        try:
            plain.send(self._connection, order)
            answer = plain.receive(self._connection)
        except plain.NotPlain:
            self._usable = False
            raise
        except OSError as error:
            raise Gone("the process of the code under test ended") from error
        if answer is None:
            raise Gone("the process of the code under test ended")
        return answer

    def _called(self, order: list[Any]) -> tuple[list[Any], BaseException | None]:
        """One call from over there of a function that a test has lent: what to answer."""
        try:
            _, number, arguments, keywords = order
            function = self._lent.function(number)
            given = [self._decoded(item, _CALLED_BACK) for item in arguments]
            named = {str(key): self._decoded(item, _CALLED_BACK) for key, item in keywords.items()}
            return ["returned", self._encoded(function(*given, **named))], None
        except BaseException as error:
            if type(error).__name__ == "TestTimeout" or isinstance(error, (KeyboardInterrupt, SystemExit, Gone)):
                raise
            failed = isinstance(error, AssertionError) or not isinstance(error, Exception)
            return ["threw", self._lent.threw(error)], error if failed else None

    def _rebuilt(self, answer: list[Any]) -> BaseException:
        if len(answer) != 8 or any(type(answer[at]) is not kind for at, kind in ((4, list), (6, dict), (7, list))):
            return plain.NotPlain("malformed answer")
        above = [tuple(map(str, names[:3])) for names in answer[7] if type(names) is list and len(names) == 3]
        kind = self._raised(tuple(map(str, answer[1:4])), above)
        try:
            arguments = [self._decoded(item, "an error's argument") for item in answer[4]]
        except plain.NotPlain:
            arguments = [str(answer[5])]  # whoever looks into it finds no more than its text
        try:
            error = kind(*arguments)
        except Exception:  # a class with arguments of its own
            error = kind.__new__(kind)
            error.args = (str(answer[5]),)
        for name, item in answer[6].items():
            if not name.startswith("__"):
                try:
                    setattr(error, name, self._decoded(item, f"an error's {name}"))
                except (AttributeError, TypeError, plain.NotPlain):
                    continue  # whoever looks for it does not find it
        return error

    def _raised(self, names: tuple[str, ...], above: list[tuple[str, ...]]) -> type[BaseException]:
        """The class of an error that was raised, by names as ``_exception`` has them. It is below one of those
        ``above`` it and of no other, or an error could be good for all: below the nearest that the known solution has
        raised, or else the very next. One of the known solution's is below what it was there."""
        module, name, base = names
        if module == "builtins":
            return self._exception(module, name, base)
        places = self._places or frozenset()
        raised = {place.partition(" below ")[0] for place in places if place.startswith("error ")}
        known = f"error {module}:{name}" in raised
        nearest: tuple[str, ...] = above[0] if above else ("",)
        if self._places is not None and not known:
            nearest = next((one for one in above if f"error {one[0]}:{one[1]}" in raised), nearest)
        where = f"error {module}:{name} below {':'.join(nearest[:2])}"
        self.seen.add(where)
        if above and (module, name, base) not in self._exceptions and (not known or where in places):
            self._keep_exception((module, name, base), self._exception(*nearest))
        return self._exception(module, name, base)

    def _keep_exception(self, key: tuple[str, str, str], above: type[BaseException]) -> None:
        self._exceptions[key] = type(key[1], (above,), {"__module__": key[0]})
        self._lent.know(self._exceptions[key], ["g", *key[:2]])

    def _exception(self, module: str, name: str, base: str) -> type[BaseException]:
        above: Any = getattr(builtins, base, Exception)
        if not (isinstance(above, type) and issubclass(above, BaseException)):
            above = Exception
        found: type[BaseException] = above
        if module == "builtins":
            return found
        key = (module, name, base)
        if key not in self._exceptions:
            self._keep_exception(key, found)
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
        places = [os.path.join(folder, name.replace(".", os.sep)) for folder in self._folders]
        return self._own(name, places) or self._theirs(name, places) or outside(name, path, self._root)

    def _own(self, name: str, places: Sequence[str]) -> Any:
        """A module of the tests' own, wherever it lies: nothing of the agent's stands before it, as a helper of the
        same name in a folder that is looked through earlier would."""
        for base in places:
            for file, package in ((os.path.join(base, "__init__.py"), True), (base + ".py", False)):
                if file in self._trusted:
                    where = [base] if package else None
                    return importlib.util.spec_from_file_location(name, file, submodule_search_locations=where)
        for base in places:
            within = any(file.startswith(base + os.sep) for file in self._trusted)
            if within and name not in sys.builtin_module_names and not os.path.lexists(f"{base}/__init__.py"):
                spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = [base]
                return spec
        return None

    def _theirs(self, name: str, places: Sequence[str]) -> Any:
        for base in places:
            for file, package in ((os.path.join(base, "__init__.py"), True), (base + ".py", False)):
                if os.path.lexists(file):
                    return importlib.machinery.ModuleSpec(name, self._loader, is_package=package)
            standard = name in sys.builtin_module_names or name.partition(".")[0] in sys.stdlib_module_names
            if os.path.isdir(base) and not standard:
                return importlib.machinery.ModuleSpec(name, self._loader, is_package=True)
        return None


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
    places: Sequence[str] | None = None,
    keep_arguments: bool = False,
) -> Solution:
    """From here on this process imports nothing from ``folders`` but ``trusted`` (paths below ``root``).

    cpu_sec: of the processor, for one answer of the other process. places, keep_arguments: see ``Solution``.
    """
    files = [os.path.join(root, path) for path in trusted]
    connection = socket.socket(fileno=descriptor)
    solution = Solution(connection, modules, trusted=files, places=places, keep_arguments=keep_arguments)
    solution.limit(cpu_sec)
    finder: Any = Finder(solution, root, folders, trusted, modules)
    sys.meta_path.insert(0, finder)
    return solution


def keep_precedence(root: str, modules: Sequence[str]) -> None:
    guard: Any = Precedence(root, modules)
    sys.meta_path.insert(0, guard)
