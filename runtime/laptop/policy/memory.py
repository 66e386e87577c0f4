"""A generated repository held in memory, with tests that run in this process: thousands of surveys in seconds.

For repositories that LiveRL has generated itself, and for no others: their code runs here without a sandbox. It says
what the sandboxed agent would read, word for word, because it uses the testkit's own explanation and tracer.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType

from runtime.grading.testkit import explain
from runtime.grading.testkit.mini import Tracer
from runtime.laptop.synth.repository import Repository
from runtime.laptop.tools.debugger import Failure
from runtime.task import Task

ROOT = "/rehearsal"


def is_generated(task: Task) -> bool:
    """Whether the task's repository came from our own generator."""
    return task.liverl.source == "synth" and task.liverl.runner == "mini"


class MemoryWorkspace:
    """Implements the debugger's ``Workspace``. ``ids`` are run in order, as the sandboxed runner does."""

    def __init__(self, files: Mapping[str, str], tests: Mapping[str, str], ids: Sequence[str]) -> None:
        self._files = {path: text.split("\n") for path, text in files.items()}
        self._tests = dict(tests)
        self._ids = ids
        self._codes: dict[str, CodeType] = {}

    @classmethod
    def of(cls, repository: Repository) -> MemoryWorkspace:
        return cls(repository.broken, repository.tests, repository.fail_to_pass + repository.pass_to_pass)

    @classmethod
    def of_task(cls, task: Task) -> MemoryWorkspace:
        """From the task's directory. Only for tasks that ``is_generated`` accepts."""
        if not is_generated(task):
            raise ValueError(f"{task.id}: only generated repositories may run in this process")
        files = {path: (task.repository / path).read_text(encoding="utf-8") for path in task.liverl.source_files}
        tests = {path: (task.tests / "files" / path).read_text(encoding="utf-8") for path in task.liverl.test_files}
        return cls(files, tests, task.expected_ids)

    def read(self, path: str) -> list[str]:
        return list(self._files[path])

    def write(self, path: str, lines: Sequence[str]) -> None:
        self._files[path] = list(lines)
        self._codes.pop(path, None)

    def passes(self) -> bool:
        return self._first_error(None) is None

    def failure(self) -> Failure | None:
        tracer = Tracer(ROOT)
        for path, text in {**{name: "\n".join(lines) for name, lines in self._files.items()}, **self._tests}.items():
            linecache.cache[f"{ROOT}/{path}"] = (len(text), None, text.splitlines(keepends=True), f"{ROOT}/{path}")
        try:
            error = self._first_error(tracer)
            if error is None:
                return None
            said = explain.describe(error, ROOT)
        finally:
            for path in (*self._files, *self._tests):
                linecache.cache.pop(f"{ROOT}/{path}", None)
        lines = [(path, line - 1) for path, line in tracer.recent() if path in self._files]
        raised = not isinstance(error, AssertionError)
        text = f"{said['type']}: {said['message']}" if raised else said["message"]
        return Failure(text[:300], lines, raised=raised)

    def _first_error(self, tracer: Tracer | None) -> BaseException | None:
        modules = self._modules()
        if isinstance(modules, SyntaxError):
            return modules
        saved = {name: sys.modules.get(name) for name in modules}
        sys.modules.update(modules)
        try:
            namespaces: dict[str, dict[str, object]] = {}
            for test_id in self._ids:
                file, _, name = test_id.partition("::")
                if file not in namespaces:
                    namespaces[file] = {"__name__": file}
                    exec(self._code(file, self._tests[file]), namespaces[file])
                function = namespaces[file][name]
                if tracer is not None:
                    tracer.start()
                try:
                    function()  # type: ignore[operator]
                except Exception as error:  # whatever the code under test raises is a failing test
                    return error
                finally:
                    if tracer is not None:
                        tracer.stop()
            return None
        except Exception as error:  # at import
            return error
        finally:
            for name, module in saved.items():
                if module is None:
                    sys.modules.pop(name, None)
                else:
                    sys.modules[name] = module

    def _modules(self) -> dict[str, ModuleType] | SyntaxError:
        made: dict[str, ModuleType] = {}
        for path, lines in self._files.items():
            name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            module = ModuleType(name)
            if path.endswith("__init__.py"):
                module.__path__ = []
            try:
                exec(self._code(path, "\n".join(lines)), vars(module))
            except SyntaxError as error:
                return error
            made[name] = module
        return made

    def _code(self, path: str, text: str) -> CodeType:
        if path not in self._codes:
            self._codes[path] = compile(text, f"{ROOT}/{path}", "exec", dont_inherit=True)
        return self._codes[path]
