"""The short way into ``liverl compile`` and ``liverl check``: their arguments read without the command line's library,
which takes longer to start than most specs take to compile.

It understands what is plainly right. Everything else (``--help``, a misspelt option, a missing value) is left to the
library, which knows the words for it; a test holds the options below against the library's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

OPTIONS: dict[str, dict[str, str]] = {
    "compile": {
        "--target": "target",
        "-t": "target",
        "--out": "out",
        "-o": "out",
        "--tla": "tla",
        "--set": "sets",
        "--point": "point",
    },
    "check": {
        "--target": "target",
        "-t": "target",
        "--tla": "tla",
        "--set": "sets",
        "--point": "point",
        "--json": "json",
    },
}
"""Command -> option -> parameter of the function that does it."""
REPEATED = {"tla", "sets"}
SWITCHES = {"json"}


def direct(arguments: Sequence[str]) -> Callable[[], None] | None:
    """The call that a command line plainly means, or None."""
    if not arguments or arguments[0] not in OPTIONS:
        return None
    options = OPTIONS[arguments[0]]
    given: dict[str, Any] = {}
    specs: list[str] = []
    rest = iter(arguments[1:])
    for argument in rest:
        if not argument.startswith("-"):
            specs.append(argument)
            continue
        option, equals, value = argument.partition("=")
        name = options.get(option)
        if name is None or (equals and not option.startswith("--")):
            return None
        if name in SWITCHES:
            if equals:
                return None
            given[name] = True
            continue
        found = value if equals else next(rest, None)
        if found is None or (found.startswith("-") and not equals):
            return None
        if name in REPEATED:
            given.setdefault(name, []).append(found)
        else:
            given[name] = Path(found) if name == "out" else found
    if len(specs) != 1 or not specs[0]:
        return None
    from liverl.compiling import check_command, compile_command

    spec = Path(specs[0])
    if arguments[0] == "compile":
        return partial(compile_command, spec, **given)
    return partial(check_command, spec, **given)
