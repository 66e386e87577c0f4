"""Starts one of LiveRL's own Python programs in a fork of the supervisor instead of a new interpreter: 50 ms less CPU.

Only programs shown below ``/opt/liverl`` (read-only) are started so, and only for a plain ``python3 [-I -S ...] FILE``.
What differs from a new interpreter: modules of the standard library and the test kit may be imported already.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

FOLDER = "/opt/liverl"
PYTHON = "/opt/python/bin/python3"
_INTERPRETERS = ("python3", PYTHON)
_VARIABLES = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
_FLAGS = {"-I", "-S", "-B", "-s", "-P", "-E"}


def find(argv: Sequence[str], env: dict[str, str]) -> int | None:
    """The place of the program in ``argv``, or None if a new interpreter must be started."""
    if argv[0] not in _INTERPRETERS or FOLDER not in sys.path:
        return None
    place = 1
    while place < len(argv) and argv[place] in _FLAGS:
        place += 1
    if not {"-I", "-E"} & set(argv[1:place]) and any(key.startswith("PYTHON") for key in env if key not in _VARIABLES):
        return None  # a variable that only a new interpreter can heed, such as PYTHONHASHSEED
    if place == len(argv) or not argv[place].startswith(FOLDER + "/") or ".." in argv[place].split("/"):
        return None
    return place if argv[place].endswith(".py") and os.path.isfile(argv[place]) else None


def run(argv: Sequence[str], place: int, env: dict[str, str], cwd: str) -> NoReturn:
    """Become the program; standard input and output are in place already. Ends the process with its exit code."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kernel.set_dumpable(True)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    path = argv[place]
    flags = set(argv[1:place])
    front = [] if flags & {"-I", "-P"} else [os.path.dirname(path)]
    if not flags & {"-I", "-E"}:
        front += [folder for folder in env.get("PYTHONPATH", "").split(":") if folder]
    sys.path[:] = list(dict.fromkeys([*front, *(folder for folder in sys.path if folder != FOLDER)]))
    sys.argv[:] = argv[place:]
    sys.dont_write_bytecode = True
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    for name in [name for name in sys.modules if name == "guest" or name.startswith("guest.")]:
        del sys.modules[name]
    code = _execute(path)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        code = code or 120  # as the interpreter does
    os._exit(code)


def _execute(path: str) -> int:
    warm = importlib.import_module("testkit.warm") if "testkit.warm" in sys.modules else None
    main: Any = type(sys)("__main__")
    main.__file__ = path
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    try:
        with open(path, "rb") as stream:
            source = stream.read()
        if warm is not None:
            warm.install(FOLDER)
        exec(warm.compiled(path, source) if warm is not None else compile(source, path, "exec"), vars(main))
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0
