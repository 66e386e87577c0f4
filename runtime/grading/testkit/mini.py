"""Runs plain pytest-style files: ``def test_*():`` with bare asserts in ``test_*.py``; needs nothing installed.

It knows no fixtures, classes, marks or conftest.py; a package that uses those needs the ``pytest`` runner. Ids are
pytest's: ``tests/test_x.py::test_y``. As a program:

    python3 mini.py ROOT [ID ...] [--report FILE] [--trace] [--stop-first] [--timeout SECONDS]

exits with 0 if all passed, 1 if not, 2 if the report could not be written.
"""

from __future__ import annotations

import builtins
import itertools
import json
import os
import site
import sys
import time

if __package__:
    from . import apart, explain, report, timers, warm
else:  # started as a program from a mounted folder
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import apart  # type: ignore[import-not-found,no-redef]
    import explain  # type: ignore[import-not-found,no-redef]
    import report  # type: ignore[import-not-found,no-redef]
    import timers  # type: ignore[import-not-found,no-redef]
    import warm  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType, ModuleType
    from typing import Any

TEST_TIMEOUT = 5.0
_NEEDED = {
    *("_ast", "abc", "builtins", "codecs", "encodings", "errno", "fcntl", "genericpath", "importlib", "io", "json"),
    *("linecache", "os", "posixpath", "re", "select", "signal", "site", "socket", "stat", "struct", "sys", "time"),
    *("types", "warnings", "zipimport"),
}
_SKIPPED_FOLDERS = {"__pycache__", "node_modules", "build", "dist", "venv", "site-packages"}


def run(
    root: str | os.PathLike[str],
    ids: Sequence[str] | None = None,
    *,
    trace: bool = False,
    stop_first: bool = False,
    timeout: float = 30.0,
    test_timeout: float = TEST_TIMEOUT,
    python_path: Sequence[str] = (),
    nonce: str = "",
    trusted: Sequence[str] = (),
    modules: Sequence[str] | None = None,
    kept: Sequence[str] = (),
    solution: int = -1,
    places: Sequence[str] | None = None,
    keep_arguments: bool = False,
) -> dict[str, Any]:
    """Run tests of the repository folder ``root`` in a forked child and return its report (see ``report.py``).

    ids: test ids, or files whose tests are all run; None means every ``test_*.py`` below ``root``. An id that does not
    exist is simply absent from the report. trace: record the executed lines of each repository file during the first
    test that does not pass (not those run at import). stop_first: stop after that test. timeout: seconds on the clock
    for the whole run. test_timeout: seconds of the processor for one test (``timers.py``). python_path: folders below
    ``root`` to import from, besides ``root`` itself. solution: descriptor of a process that the code under test runs in
    (``apart.py``); only the ``trusted`` files of the repository, paths below ``root``, are then imported here, and
    objects come from there at ``places`` alone (None: anywhere; the report then says where they did). keep_arguments:
    what a test gives to functions does not change in their hands but at ``places``. modules: names at
    the top that the repository is known to have; no other file of it stands in for a module that is found elsewhere.
    None: any may. kept: those that are found in the repository or nowhere.
    """
    folder = os.path.realpath(root)

    def work(stream: report.Stream) -> None:
        folders, other = import_folders(folder, ids or (), python_path), None
        add_site_builtins()
        forget_modules(folders)
        if solution >= 0:
            limits: dict[str, Any] = {"cpu_sec": min(test_timeout, timeout), "places": places}
            how = {**limits, "keep_arguments": keep_arguments, "kept": kept}
            other = apart.install(report.KEPT, folder, folders, trusted, modules or (), **how)
        elif modules is not None:
            apart.keep_precedence(folder, folders, modules, kept)
        sys.path[:0] = [os.path.join(folder, name) for name in python_path]
        # A trace comes after the test that failed, so only then is stopping the child's own affair.
        stop = stop_first and trace
        session = _Session(folder, stream, trace=trace, stop_first=stop, test_timeout=min(test_timeout, timeout))
        session.run(ids, other=other)

    stop = stop_first and not trace
    return report.collect(work, runner="mini", timeout=timeout, nonce=nonce, stop_first=stop, keep=solution)


def import_folders(root: str, ids: Sequence[str], python_path: Sequence[str]) -> list[str]:
    """Where the repository's modules are looked for: its root, ``python_path``, and beside the test files."""
    beside = (os.path.dirname(os.path.join(root, test_id.partition("::")[0])) for test_id in ids)
    return list(dict.fromkeys([root, *(os.path.join(root, name) for name in python_path), *beside]))


def add_site_builtins() -> None:
    """``exit``, ``help`` and their like: a box's interpreter is started without ``site``, an agent's is not."""
    if not hasattr(builtins, "exit"):
        site.setquit()
        site.setcopyright()
        site.sethelper()


def find_test_files(root: str) -> list[str]:
    """Relative paths of all ``test_*.py``, sorted."""
    found: list[str] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith(".") and entry.name not in _SKIPPED_FOLDERS:
                        pending.append(path)
                elif entry.name.startswith("test_") and entry.name.endswith(".py"):
                    found.append(path)
    return sorted(found)


class _Session:
    """One run inside the forked child."""

    def __init__(self, root: str, stream: report.Stream, *, trace: bool, stop_first: bool, test_timeout: float) -> None:
        self._root = root
        self._stream = stream
        self._tracer = Tracer(root) if trace else None
        self._stop_first = stop_first
        self._test_timeout = test_timeout
        self._other: apart.Solution | None = None

    def run(self, ids: Sequence[str] | None, *, other: apart.Solution | None) -> None:
        os.chdir(self._root)
        warm.install(self._root)
        sys.path[:] = [self._root, *(path for path in sys.path if path and path != self._root)]
        if other is not None:
            sys.path[:] = [path for path in sys.path if not f"{path}/".startswith(f"{self._root}/")]
        self._other = other
        sys.dont_write_bytecode = True
        wanted: dict[str, list[str] | None] = {}
        for item in ids if ids is not None else find_test_files(self._root):
            file, separator, name = item.partition("::")
            names = wanted.setdefault(file, [] if separator else None)
            if separator and names is not None:
                names.append(name)
            elif not separator:
                wanted[file] = None
        self._stream.send({"event": "begin"})
        for file, names in wanted.items():
            if not self._run_file(file, names):
                break
        if other is not None:
            self._stream.send({"event": "places", "places": other.places.noted()})
            self._stream.send({"event": "changed", "places": sorted(other.changed)})
        self._stream.send({"event": "done"})

    def _run_file(self, file: str, names: list[str] | None) -> bool:
        path = os.path.join(self._root, file)
        if not os.path.isfile(path):
            return True
        try:
            module = self._limited(lambda: self._load(file, path))
        except BaseException as error:  # of the code under test, whatever it thought of
            self._stream.send({"event": "collect_error", "file": file, "error": explain.describe(error, self._root)})
            return not self._stop_first
        if names is None:
            names = [name for name, value in vars(module).items() if name.startswith("test") and _is_function(value)]
        for name in names:
            function: Any = getattr(module, name, None)
            if _is_function(function) and not self._run_test(f"{file}::{name}", function):
                return False
        return True

    def _load(self, file: str, path: str) -> ModuleType:
        folder = os.path.dirname(path)
        if folder not in sys.path and self._other is None:
            sys.path.insert(0, folder)  # pytest's "prepend" import mode: helpers beside the test file come first
        with open(path, "rb") as stream:
            code = warm.compiled(path, stream.read())
        module = type(sys)(os.path.basename(file)[:-3])
        module.__file__ = path
        sys.modules[module.__name__] = module
        exec(code, vars(module))
        return module

    def _run_test(self, test_id: str, function: Callable[[], object]) -> bool:
        """True to go on."""
        self._stream.send({"event": "start", "id": test_id})
        outcome, error = "passed", None
        if self._other is not None:
            self._other.places.begin()
        start = time.monotonic()
        if self._tracer is not None:
            self._tracer.start()
        try:
            self._limited(function)
        except BaseException as raised:
            sys.settrace(None)
            kind = type(raised).__name__
            outcome = "skipped" if kind in ("SkipTest", "Skipped") else "failed"
            error = self._describe(raised)
        finally:
            sys.settrace(None)
        seconds = time.monotonic() - start
        if self._other is not None and self._other.unfit:
            self._other.unfit = False
            if outcome == "passed":
                outcome, error = "failed", apart.UNFIT
        if outcome == "failed" and self._other is not None and self._other.places.refused:
            self._stream.send({"event": "refused", "places": sorted(self._other.places.refused)})
        self._stream.send(
            {"event": "test", "id": test_id, "outcome": outcome, "seconds": round(seconds, 6), "error": error}
        )
        if outcome != "failed":
            return True
        if self._tracer is not None:
            self._stream.send({"event": "trace", "test": test_id, **self._tracer.found()})
            self._tracer = None
        return not self._stop_first

    def _describe(self, raised: BaseException) -> dict[str, Any]:
        try:
            described: dict[str, Any] = self._limited(lambda: explain.describe(raised, self._root))
            return described
        except BaseException as error:
            return {
                "type": type(raised).__name__,
                "message": f"<{type(error).__name__} while explaining>",
                "frames": [],
            }

    def _limited(self, function: Callable[[], Any]) -> Any:
        timers.start(self._test_timeout)
        try:
            return function()
        finally:
            timers.stop()


MAX_RECENT = 400
"""Executed lines whose order is reported: enough for any debugger, little enough for a report."""


class Tracer:
    """Which lines of the repository's files one test executes, and which of them last."""

    def __init__(self, root: str) -> None:
        self._prefix = root + os.sep
        self._lines: dict[str, dict[int, int]] = {}
        self._clock = itertools.count()

    def start(self) -> None:
        self._lines = {}
        sys.settrace(self._on_call)

    def stop(self) -> None:
        sys.settrace(None)

    def lines(self) -> dict[str, list[int]]:
        return {path: sorted(numbers) for path, numbers in sorted(self._lines.items())}

    def recent(self) -> list[tuple[str, int]]:
        """(file, line), the one executed last first."""
        times = [(at, path, number) for path, numbers in self._lines.items() for number, at in numbers.items()]
        return [(path, number) for _, path, number in sorted(times, reverse=True)[:MAX_RECENT]]

    def found(self) -> dict[str, Any]:
        """What a report's ``trace`` holds."""
        return {"lines": self.lines(), "recent": self.recent()}

    def _on_call(self, frame: FrameType, event: str, argument: object) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(self._prefix):
            return None
        numbers = self._lines.setdefault(path[len(self._prefix) :], {})
        clock = self._clock

        def on_line(frame: FrameType, event: str, argument: object) -> Any:
            if event == "line":
                numbers[frame.f_lineno] = next(clock)
            return on_line

        return on_line


def forget_modules(folders: Sequence[str]) -> None:
    """Only the standard library stays imported: a repository may have packages with the names of ours. Nor do those of
    its modules that ``folders`` have too, but for what every interpreter imports before it looks there.
    """
    library = os.path.dirname(os.__file__) + os.sep
    for folder in folders:
        for name in {entry.partition(".")[0] for entry in os.listdir(folder)} if os.path.isdir(folder) else ():
            if name in sys.stdlib_module_names and name not in sys.builtin_module_names and name not in _NEEDED:
                sys.modules.pop(name, None)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name != "__main__" and file and (not file.startswith(library) or "site-packages" in file):
            del sys.modules[name]


def _is_function(value: object) -> bool:
    return type(value) is type(_is_function)


def main(arguments: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="mini")
    parser.add_argument("root")
    parser.add_argument("ids", nargs="*")
    parser.add_argument("--report")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--stop-first", action="store_true")
    parser.add_argument("--timeout", type=float, default=30.0)
    options = parser.parse_args(arguments)
    result = run(
        options.root, options.ids or None, trace=options.trace, stop_first=options.stop_first, timeout=options.timeout
    )
    if options.report:
        try:
            with open(options.report, "w") as stream:
                json.dump(result, stream)
        except OSError as error:
            print(f"mini: {options.report}: {error.strerror}", file=sys.stderr)
            return 2
    for test_id, entry in result["tests"].items():
        print(entry["outcome"], test_id, entry["error"]["message"] if entry["error"] else "")
    for file, problem in result["collect_errors"].items():
        print("error", file, f"{problem['type']}: {problem['message']}")
    bad = [entry for entry in result["tests"].values() if entry["outcome"] not in ("passed", "skipped")]
    return 1 if bad or result["collect_errors"] or not result["complete"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
