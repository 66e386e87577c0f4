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
import os
import socket
import sys
import types

if __package__:
    from . import plain
    from .finding import Finder, Precedence
    from .lent import Lent
    from .objects import Again, Class, Object, items
    from .places import Places
else:  # beside a runner that was started as a program
    import plain  # type: ignore[import-not-found,no-redef]
    from finding import Finder, Precedence  # type: ignore[import-not-found,no-redef]
    from lent import Lent  # type: ignore[import-not-found,no-redef]
    from objects import Again, Class, Object, items  # type: ignore[import-not-found,no-redef]
    from places import Places  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any

_ENDS: tuple[type[BaseException], ...] = (StopIteration, StopAsyncIteration, GeneratorExit)
"""What a test's ``map`` or ``zip`` takes for its own end, whoever raises it."""
_TEXT = "_liverl_text"
_CALLED_BACK = "argument of the callback "
"""A place of its own for each function: when it calls back is the solution's affair."""


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
        self._lent = Lent(trusted, self._running)
        self._trusted = frozenset(trusted)
        self.places = Places(places)
        self._keep_arguments = keep_arguments
        self._named: dict[str, type[BaseException]] = {}
        self._listed: set[int] = set()
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
        place = f"{module}:{name}"
        found = self._described(answer, place, ["g", module, name], lambda: place)
        if answer[0] == "value" and name != "__all__":
            self._keeps(place, answer)
        if name == "__all__" and type(found) in (list, tuple):
            # What a test takes whole is what the known solution has: ``abs`` and ``pytest`` stay what they were.
            return [one for one in found if type(one) is str and self._may(f"{module} exports {one}", ask=False)]
        return found

    def _exported(self, module: str) -> list[str]:
        """What the known solution's module gave to whoever took it whole, here."""
        return sorted(self.places.after(f"{self._running()} {module} exports "))

    @_noted
    def member(self, number: int, name: str) -> Any:
        answer = self._ask(["member", number, name])
        if answer[0] == "missing":
            raise AttributeError(f"the object has no attribute {name!r}")
        way = f"{self.places.way(number)}.{name}"
        found = self._described(answer, f".{name}", ["q", number, name], lambda: way)
        if answer[0] == "value" and (number in self._listed or type(self._objects.get(number)) is Class):
            self._keeps(way, answer)
        return found

    def _keeps(self, name: str, answer: list[Any]) -> None:
        """name: of a constant, of a class's, or of an object's in a list or table that is one."""
        for _, exactly, leaf in plain.leaves(answer[1]):
            if leaf is not None and exactly and type(leaf[1]) is int:
                self._listed.add(leaf[1])
        if not self.places.keeps(name, plain.digest(answer[1])):
            raise plain.NotPlain(f"{name}, which the tests ask for and the repair leaves alone, is another")

    @_noted
    def special(self, number: int, name: str, *arguments: Any) -> Any:
        """What an operator or built-in function gives for an object (``objects.py``)."""
        given = [self._encoded(item) for item in arguments]
        answer = self._ask(["special", number, name, given])
        return self._decoded(
            answer[1], f"__{name}__", lambda: f"{self.places.way(number)}.{name}({self._told(given, {})})"
        )

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

    def refusal(self, why: str) -> plain.NotPlain:
        """For what a test wants of an object and cannot have."""
        self.unfit |= not self._may("refuses")
        return plain.NotPlain(why)

    def _described(self, answer: list[Any], place: str, origin: list[Any], way: Callable[[], str]) -> Any:
        kind: str = answer[0]
        rest = [*answer[1:], "", "", ""]
        if kind == "value" and not (rest[2] is True and origin[0] == "g" and self.places.is_known(f"function {place}")):
            try:
                return self._decoded(rest[0], place, way)
            except plain.NotPlain:
                if rest[2] is not True:
                    raise
        if kind == "value":
            kind, rest = "function", ["", ""]  # an object in the place of a function is good for being called
        if kind == "function":
            self.places.has(f"function {place}")
            return self._function(place, origin, str(rest[0]), str(rest[1]))
        if kind == "submodule" and origin[0] == "g":
            return self._submodule(str(rest[0]))
        if kind == "exception":
            found = self._exception(*map(str, rest[:3]))
            if found.__module__ != "builtins" or self._may(f"{found.__name__} is {place}", ask=False):
                return found
            if not issubclass(AssertionError, found):
                return self._named_by_work(found, origin)
            self._may(f"{found.__name__} is {place}")  # who waits for it would catch what says that a test has failed
        if kind == "class":
            if self._may(f"class {place}"):
                return self._object(rest[0], Class, way())
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
                new = self._decoded(item, f"argument of {place}", lambda: f"{place} {self._told(given, named)}")
                if not self._may(f"changes argument {int(number)} of {place}"):
                    self.changed.add(place)
                    if self._keep_arguments:
                        continue
                _update(arguments[int(number)], new)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise plain.NotPlain(f"malformed answer: {error}") from error
        return self._decoded(result, place, lambda: f"{self._way(what)}({self._told(given, named)})")

    def _way(self, what: list[Any]) -> str:
        """How something was come by, the same in every run: what is called, an object by its own way."""
        named = self.places.way(what[1]) if what[0] in ("o", "q") else ""
        return ".".join([named, *map(str, what[2:])]) if named else ":".join(map(str, what[1:]))

    def _told(self, given: list[Any], named: Mapping[str, Any]) -> str:
        return self.places.told([given, dict(named)], self._lent.name)

    def _encoded(self, value: object) -> Any:
        return plain.encode(value, refer=self._refer)

    def _refer(self, value: object) -> list[Any]:
        if isinstance(value, Object):
            number: int = value._apart[1]
            return ["o", number]
        return self._lent.refer(value)

    def _decoded(self, data: Any, place: str, way: Callable[[], str]) -> Any:
        """way: how it was come by, for where an object is of it."""
        where, come, times = "", "", 0
        leaves: dict[int, tuple[str, str]] = {}
        if type(data) is list or self.places.mixes:  # for most answers nobody needs to know where they came
            where = self._where(place)
            leaves = {id(leaf): (about, exactly) for about, exactly, leaf in self.places.look(data, where)}
        if leaves or self.places.is_mixed(where):
            come = way()
            times = self.places.again(where, come)

        def resolve(data: list[Any]) -> Any:
            if data[0] == "fn" and len(data) > 1:
                return self._lent.function(data[1])
            if data[0] == plain.ITERATOR:
                once = self._may(f"an iterator {place}", ask=False) or self.places.is_known(self._where(place))
                return iter(data[1]) if once else Again(data[1])
            if data[0] in (plain.NO_NUMBER, plain.ENDLESS):  # near to nothing and far from nothing
                if self._may(f"{data[0]} {place}"):
                    return data[1] if len(data) > 1 else float("nan")
                raise plain.NotPlain(f"{data[0]}, where {place} gives a number")
            if data[0] not in ("o", "k") or len(data) != 3:
                raise plain.NotPlain("malformed data")
            about, exactly = leaves.get(id(data), ("[*]", "[*]"))
            if self._may(place) and self.places.may(where, about, f"{come}{exactly} #{times}"):
                return self._object(data[1], Class if data[0] == "k" else Object, f"{come}{exactly}")
            if data[2] is not None:  # of a class of its own, and yet data
                return plain.decode(data[2], resolve=resolve)
            if data[0] == "o" and self._usable and type(data[1]) is int:
                try:
                    more = self._ask(["items", data[1]])[1]
                    sized = more.pop(1) if type(more) is list and len(more) > 1 else None
                    for within, inside, leaf in self.places.look(more, where):
                        leaves[id(leaf)] = (about + within, exactly + inside)
                    found = plain.decode(more, resolve=resolve)
                    return items(sized, found, once=self.places.is_known(f"{self._running()} an iterator {place}"))
                except TypeError:
                    pass
            raise plain.NotPlain(f"an object, where {place} gives data")

        return plain.decode(data, resolve=resolve)

    def _where(self, place: str) -> str:
        return place if place.startswith(_CALLED_BACK) else f"{self._running()} {place}"

    def _may(self, place: str, *, ask: bool = True) -> bool:
        """Whether an object may come from there, at the place in the tests that is running: what ``get`` gives in one
        line is not what it gives in all. ask: whether the known solution may be asked once more."""
        if self.places.has(self._where(place)):
            return True
        running = self._running()
        if place.endswith("()") and self.places.is_known(f"{running} class()"):
            named = f" class {place[:-2]}"  # a function in the place of a class of which an object is made here
            if self.places.ends(named):
                return True
        if ask:
            self.places.refused.add(self._where(place))
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

    def _object(self, number: Any, kind: type[Object], way: str) -> Object:
        if type(number) is not int:
            raise plain.NotPlain("malformed data")
        self.places.came(number, way)
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
        times = 0
        while answer[0] == "callback":
            self._usable = True  # what is called may ask in its turn
            times += 1
            told, error = self._called(answer, times)
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

    def _called(self, order: list[Any], times: int) -> tuple[list[Any], BaseException | None]:
        """One call from over there of a function that a test has lent: what to answer. times: so many there were, of
        what was asked last."""
        try:
            _, number, arguments, keywords = order
            function, name = self._lent.function(number), self._lent.name(number)
            place = f"{_CALLED_BACK}{name}"

            def taken(at: Any, item: Any) -> Any:
                return self._decoded(item, place, lambda: f"{name}({at}) #{times}")

            given = [taken(at, item) for at, item in enumerate(arguments)]
            named = {str(key): taken(key, item) for key, item in keywords.items()}
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
            arguments = [self._decoded(item, "an error's argument", lambda: "an error") for item in answer[4]]
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
                    setattr(error, name, self._decoded(item, f"an error's {name}", lambda: "an error"))
                except (AttributeError, TypeError, plain.NotPlain):
                    continue  # whoever looks for it does not find it
        if type(error).__module__ != "builtins" and type(answer[5]) is str and len(answer[5]) < plain.MAX_TEXT:
            error.__dict__[_TEXT] = answer[5]  # its class may say it in its own words
        return error

    def _raised(self, names: tuple[str, ...], above: list[tuple[str, ...]]) -> type[BaseException]:
        """The class of an error that was raised, by names as ``_exception`` has them. It is below one of those
        ``above`` it and of no other, or an error could be good for all: below the nearest that the known solution has
        raised, or else the very next. One of the known solution's is below what it was there."""
        module, name, base = names
        if module == "builtins":
            return self._exception(module, name, base)
        raised = {place.partition(" below ")[0] for place in self.places.after("error ")}
        known = f"{module}:{name}" in raised
        nearest: tuple[str, ...] = above[0] if above else ("",)
        if not self.places.open and not known:
            nearest = next((one for one in above if f"{one[0]}:{one[1]}" in raised), nearest)
        where = f"error {module}:{name} below {':'.join(nearest[:2])}"
        knows = self.places.knows(where)
        if above and (module, name, base) not in self._exceptions and (not known or knows):
            self._keep_exception((module, name, base), self._exception(*nearest))
        return self._exception(module, name, base)

    def _keep_exception(self, key: tuple[str, str, str], above: type[BaseException]) -> None:
        self._exceptions[key] = type(key[1], (above,), {"__module__": key[0], "__str__": _said(above)})
        self._lent.know(self._exceptions[key], ["g", *key[:2]])

    def _exception(self, module: str, name: str, base: str) -> type[BaseException]:
        above: Any = getattr(builtins, base, Exception)
        if not (isinstance(above, type) and issubclass(above, BaseException)):
            above = Exception
        found: type[BaseException] = self._of_work(above)
        if module == "builtins":
            return found
        key = (module, name, base)
        if key not in self._exceptions:
            self._keep_exception(key, found)
        return self._exceptions[key]

    def _named_by_work(self, found: type[BaseException], origin: list[Any]) -> type[BaseException]:
        """What the work calls a built-in error by a name of its own, which the known solution does not: what is raised
        over there is below it, what the test's own code raises is not."""
        if found.__name__ not in self._named:
            self._named[found.__name__] = type(found.__name__, (found,), {"__module__": "builtins"})
            self._lent.know(self._named[found.__name__], origin)
        return self._named[found.__name__]

    def _of_work(self, found: type[BaseException]) -> type[BaseException]:
        """The class for a built-in error that the work has raised, or that one of its own is below."""
        if found.__name__ in self._named:
            return self._named[found.__name__]
        above = [one for one in self._named.values() if issubclass(found, one.__mro__[1])]
        return type(found.__name__, (*above, found), {"__module__": "builtins"}) if above else found


def _said(above: type[BaseException]) -> Callable[[BaseException], str]:
    """What an error says of itself: what it said over there."""

    def said(error: BaseException) -> str:
        text = error.__dict__.get(_TEXT)
        return text if type(text) is str else above.__str__(error)

    return said


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
            raise self.__dict__["_solution"].refusal("a test patches the code under test")


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
    kept: Sequence[str] = (),
) -> Solution:
    """From here on this process imports nothing from ``folders`` but ``trusted`` (paths below ``root``).

    cpu_sec: of the processor, for one answer of the other process. places, keep_arguments: see ``Solution``. kept:
    modules that come from ``folders`` or from nowhere.
    """
    files = [os.path.join(root, path) for path in trusted]
    connection = socket.socket(fileno=descriptor)
    solution = Solution(connection, modules, trusted=files, places=places, keep_arguments=keep_arguments)
    solution.limit(cpu_sec)
    finder: Any = Finder(_Loader(solution), root, folders, trusted, modules, kept)
    sys.meta_path.insert(0, finder)
    return solution


def keep_precedence(root: str, folders: Sequence[str], modules: Sequence[str], kept: Sequence[str]) -> None:
    guard: Any = Precedence(root, folders, modules, kept)
    sys.meta_path.insert(0, guard)
