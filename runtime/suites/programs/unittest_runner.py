"""Runs unittest's tests by id, in any Python from 3.6 on, and writes a line of JSON for each. A program of its own:
``python unittest_runner.py REPORT MODULES < IDS``, with ids as ``tests/test_x.py::Class::test_y``; MODULES: a file of
names at the top that the repository is known to have: no other file of it stands in for a module found elsewhere.
"""

import importlib
import importlib.machinery
import json
import os
import sys
import unittest
from pathlib import Path
from typing import IO, Any


def import_place(file: Path) -> "tuple[str, str]":
    """(folder to import from, name of the module), as pytest has it: packages begin below the last folder that is
    none."""
    folder, parts = file.resolve().parent, [file.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return str(folder), ".".join(parts)


class Precedence:
    """First on ``sys.meta_path``."""

    def __init__(self, root: str, modules: "set[str]") -> None:
        self._root, self._modules = root, modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if path is not None or name in self._modules or name in sys.builtin_module_names:
            return None
        places = [place for place in sys.path if not (os.path.realpath(place) + "/").startswith(self._root + "/")]
        return importlib.machinery.PathFinder.find_spec(name, places)


class Result(unittest.TestResult):
    """Says what became of each test as soon as it is known."""

    def __init__(self, stream: "IO[str]", names: "dict[str, str]") -> None:
        super().__init__()
        self._out, self._names = stream, names

    def _say(self, test: Any, outcome: str) -> None:
        kind = type(test)
        name = self._names.get(kind.__module__)
        if name is not None and hasattr(test, "_testMethodName"):
            test_id = f"{name}::{kind.__qualname__}::{test._testMethodName}"
            self._out.write(json.dumps({"id": test_id, "outcome": outcome}) + "\n")
            self._out.flush()

    def addSuccess(self, test: Any) -> None:
        self._say(test, "passed")

    def addFailure(self, test: Any, err: Any) -> None:
        self._say(test, "failed")

    def addError(self, test: Any, err: Any) -> None:
        self._say(test, "error")

    def addSkip(self, test: Any, reason: str) -> None:
        self._say(test, "skipped")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self._say(test, "passed")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._say(test, "failed")

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._say(test, "failed" if issubclass(err[0], test.failureException) else "error")


def main() -> None:
    workdir = Path.cwd()
    sys.path[0] = str(workdir)
    guard: Any = Precedence(str(workdir.resolve()), set(Path(sys.argv[2]).read_text().split()))
    sys.meta_path.insert(0, guard)
    if (workdir / "src").is_dir():
        sys.path.insert(0, str(workdir / "src"))
    wanted: dict[str, dict[str, list[str]]] = {}
    for test_id in sys.stdin.read().split("\n"):
        file, _, rest = test_id.partition("::")
        group, _, name = rest.rpartition("::")
        if group and Path(file).is_file():
            wanted.setdefault(file, {}).setdefault(group, []).append(name)
    suite = unittest.TestSuite()
    names: dict[str, str] = {}
    for file, groups in wanted.items():
        folder, module = import_place(Path(file))
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            loaded = importlib.import_module(module)
        except BaseException as error:  # what the work does to an import is its own affair
            sys.stderr.write(f"{file}: {type(error).__name__}: {error}\n")
            continue
        names[module] = file
        for group, methods in groups.items():
            found: Any = loaded
            for part in group.split("."):
                found = getattr(found, part, None)
            if isinstance(found, type) and issubclass(found, unittest.TestCase):
                suite.addTests(found(name) for name in methods if hasattr(found, name))
    with Path(sys.argv[1]).open("w") as stream:
        suite.run(Result(stream, names))
        stream.write(json.dumps({"event": "done"}) + "\n")
        stream.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
