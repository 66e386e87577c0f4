"""What pytest does alike at the start of every run, done once: for a fork server, whose children then run tests.

pytest's own plugins are registered, and what can be no fixture among their names is known. Nothing here depends on a
repository; where a run's environment could make a difference, or pytest is another than is known here, it starts as
ever. It does not know which tests will run.
"""

from __future__ import annotations

import itertools
import operator
import os
import pathlib
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

_STEERING = ("PYTEST", "TOX")
"""How variables begin that pytest heeds while it registers its plugins."""
_PLAIN = (
    *(types.ModuleType, types.BuiltinFunctionType, type(None), bool, int, float, str, bytes, tuple, list, dict, set),
    frozenset,
)


class Ready:
    """A configuration with pytest's own plugins, for one run in each process that is forked from here. arguments: what
    every run has on its command line of plugins that are left out; modules: those that are looked through for fixtures.
    """

    def __init__(self, arguments: Sequence[str], modules: Iterable[str]) -> None:
        self._config: Any = None
        self._names: dict[int, tuple[types.ModuleType, dict[str, Any], list[str]]] = {}
        self._made: Any = sys.modules["_pytest.config"]
        self._left_out = _left_out(arguments)
        if _steered():
            return
        try:
            self._config = self._made.get_config(list(arguments), [])
        except Exception:
            self._config = None
        for name in modules:
            module = sys.modules.get(name)
            if isinstance(module, types.ModuleType):
                known = dict(vars(module))
                maybe = [one for one in dir(module) if one not in known or not _no_fixture(known[one])]
                self._names[id(module)] = (module, known, maybe)

    def install(self) -> None:
        """For the next ``pytest.main`` of this process."""
        if self._config is not None and not _steered():
            self._original, self._made.get_config = self._made.get_config, self._given
        fixtures: Any = sys.modules.get("_pytest.fixtures")
        if fixtures is not None and self._names:
            fixtures.dir = self._dir  # in the place of the built-in, in that module alone

    def _given(self, args: Any = None, plugins: Any = None, **more: Any) -> Any:
        """In the place of pytest's ``get_config``, once."""
        self._made.get_config = self._original
        config, self._config = self._config, None
        arguments = tuple(args or ())
        if set(more) - {"prog"} or _left_out(arguments) != self._left_out:
            return self._original(args, plugins, **more)
        try:
            config.invocation_params = self._made.Config.InvocationParams(
                args=arguments, plugins=plugins, dir=pathlib.Path.cwd()
            )
            if "prog" in more:
                config._parser.prog = more["prog"]
        except Exception:
            return self._original(args, plugins, **more)
        return config

    def _dir(self, *holder: Any) -> list[str]:
        known = self._names.get(id(holder[0])) if len(holder) == 1 else None
        if known is not None and known[0] is holder[0] and _same(vars(known[0]), known[1]):
            return known[2]
        return dir(*holder)


def _same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return now.keys() == before.keys() and all(map(operator.is_, now.values(), before.values()))


def _no_fixture(value: Any) -> bool:
    """Whether this is certainly none, in any version of pytest: a fixture is a function with something added to it, an
    object of a class of pytest's own, or is wrapped by something."""
    if type(value) is types.FunctionType:
        return not vars(value)
    if isinstance(value, type):
        return "__wrapped__" not in vars(value)
    return type(value) in _PLAIN


def _left_out(arguments: Sequence[str]) -> list[str]:
    """Of a command line: plugins that are named in order not to be there."""
    words = [str(word) for word in arguments]
    after = [word for flag, word in itertools.pairwise(words) if flag == "-p"]
    together = [word[2:] for word in words if word.startswith("-p") and len(word) > 2]
    return sorted(word for word in (*after, *together) if word.startswith("no:"))


def _steered() -> bool:
    return any(name.startswith(_STEERING) for name in os.environ)
