"""Runs tests with the real pytest, in process, and reports as the ``mini`` runner does.

For real packages. pytest and the plugins that are installed beside it are imported when this module is, so that a fork
server pays for them once. Plugins that the repository itself would register are not loaded; its conftest.py files and
its configuration are, but for ``addopts``.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time

import pytest

from . import apart, explain, pytest_ready, report, timers, warm
from .mini import TEST_TIMEOUT, Tracer, add_site_builtins
from .mini import import_folders as _import_folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import Any

PLUGINS = sorted({entry.value for entry in importlib.metadata.entry_points(group="pytest11")})
BUILT_IN = getattr(sys.modules["_pytest.config"], "default_plugins", ())
for _name in (*PLUGINS, *(f"_pytest.{name}" for name in BUILT_IN), "pdb", "xml.etree.ElementTree"):
    importlib.import_module(_name)

_ARGUMENTS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "-o",
    "addopts=",
    "--continue-on-collection-errors",
    "--no-header",
    "--no-summary",
    # The plug-ins were imported before: a repository that turns warnings into errors must not fail over that.
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
_READY = pytest_ready.Ready(_ARGUMENTS, [*PLUGINS, *(f"_pytest.{name}" for name in BUILT_IN)])
_KIT = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


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
    """See ``mini.run``. The repository and its ``src`` folder, if there is one, come first on Python's path."""
    folder = os.path.realpath(root)

    def work(stream: report.Stream) -> None:
        warm.install(folder)
        _READY.install()
        add_site_builtins()
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(_KIT):
                del sys.modules[name]  # a repository may have packages with the names of ours
        os.chdir(folder)
        other, folders = None, import_folders(folder, ids or (), python_path)
        if solution >= 0:
            how: dict[str, Any] = {"cpu_sec": min(test_timeout, timeout), "places": places}
            how |= {"keep_arguments": keep_arguments, "kept": kept}
            other = apart.install(report.KEPT, folder, folders, trusted, modules or (), **how)
        elif modules is not None:
            apart.keep_precedence(folder, folders, modules, kept)
        own = dict.fromkeys([folder, *(os.path.join(folder, name) for name in (*python_path, "src"))])
        if solution < 0:
            sys.path[:0] = [path for path in own if os.path.isdir(path)]
        sys.dont_write_bytecode = True
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        limits = (min(test_timeout, timeout), max(min(test_timeout, timeout), timeout / 3))
        plugin = _Plugin(folder, stream, ids, trace=trace, limits=limits, other=other)
        steered = ("--rootdir", folder, "--confcutdir", folder, "-c", _configuration(folder))
        arguments = [*_ARGUMENTS, *steered, *(word for name in PLUGINS for word in ("-p", name))]
        if stop_first and trace:  # a trace comes after the test that failed; else the parent stops the run
            arguments.append("-x")
        files = dict.fromkeys(test_id.partition("::")[0] for test_id in ids or ())
        paths = [file for file in files if os.path.exists(file)]
        stream.send({"event": "begin"})
        if paths or not files:
            code = pytest.main([*arguments, *paths], plugins=[plugin])
            if code == pytest.ExitCode.INTERNAL_ERROR:
                raise RuntimeError("pytest ended with an internal error")

    stop = stop_first and not trace
    return report.collect(work, runner="pytest", timeout=timeout, nonce=nonce, stop_first=stop, keep=solution)


def import_folders(root: str, ids: Sequence[str], python_path: Sequence[str]) -> list[str]:
    """See ``mini.import_folders``."""
    return _import_folders(root, ids, list(dict.fromkeys([*python_path, "src"])))


def _configuration(root: str) -> str:
    """The file that pytest would take, of those that are known here: later versions look for further ones, which would
    be taken from whoever has put them there.
    """
    names = ["pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg"]
    if int(pytest.__version__.partition(".")[0]) >= 9:
        names[:0] = ["pytest.toml", ".pytest.toml"]
    sections = {"pyproject.toml": "[tool.pytest", "tox.ini": "[pytest]", "setup.cfg": "[tool:pytest]"}
    for name in names:
        try:
            with open(os.path.join(root, name), encoding="utf-8", errors="replace") as stream:
                if sections.get(name, "") in stream.read():
                    return stream.name
        except OSError:
            continue
    return os.devnull


def _no_text(*arguments: Any, **keywords: Any) -> str:
    return "failed"


class _Plugin:
    """Streams outcomes, keeps time limits, and leaves out what was not asked for."""

    def __init__(
        self,
        root: str,
        stream: report.Stream,
        ids: Sequence[str] | None,
        *,
        trace: bool,
        limits: tuple[float, float],
        other: apart.Solution | None,
    ) -> None:
        """limits: seconds for one test, and for the import of one test file. other: where the code under test is."""
        self._other = other
        self._root = root
        self._stream = stream
        self._ids = None if ids is None else {test_id for test_id in ids if "::" in test_id}
        self._files = None if ids is None else {test_id for test_id in ids if "::" not in test_id}
        self._tracer = Tracer(root) if trace else None
        self._test_timeout, self._import_timeout = limits
        self._outcome = "passed"
        self._error: dict[str, Any] | None = None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._ids is not None and self._files is not None:
            items[:] = [
                item for item in items if item.nodeid in self._ids or item.nodeid.partition("::")[0] in self._files
            ]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            if self._other is not None:
                self._stream.send({"event": "places", "places": self._other.places.noted()})
                self._stream.send({"event": "changed", "places": sorted(self._other.changed)})
            self._stream.send({"event": "done"})
        os._exit(0)  # what pytest does from here on, collecting garbage five times, costs more than most tests

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """A module that never ends its import must cost itself the verdict, not the whole run its time."""
        timers.start(self._import_timeout, clock_sec=self._import_timeout)
        try:
            return (yield)
        finally:
            timers.stop()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            text = str(report.longrepr).strip().splitlines()
            error = {"type": "CollectError", "message": text[-1][:600] if text else "", "frames": []}
            self._stream.send({"event": "collect_error", "file": report.nodeid, "error": error})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._stream.send({"event": "start", "id": item.nodeid})
        item.repr_failure = _no_text  # type: ignore[method-assign]  # tracebacks cost more than tests; nobody reads them
        # Who ends the run in the middle of a test has not passed it.
        self._outcome, self._error = "error", None
        if self._other is not None:
            self._other.places.begin()
        timers.start(self._test_timeout)
        start = time.monotonic()
        try:
            return (yield)
        finally:
            timers.stop()
            seconds = round(time.monotonic() - start, 6)
            if self._other is not None and self._other.unfit:
                self._other.unfit = False
                if self._outcome == "passed":
                    self._outcome, self._error = "failed", apart.UNFIT
            if self._outcome in ("failed", "error") and self._other is not None and self._other.places.refused:
                self._stream.send({"event": "refused", "places": sorted(self._other.places.refused)})
            event = {"event": "test", "id": item.nodeid, "outcome": self._outcome, "seconds": seconds}
            self._stream.send({**event, "error": self._error})
            if self._tracer is not None and self._outcome in ("failed", "error"):
                self._stream.send({"event": "trace", "test": item.nodeid, **self._tracer.found()})
                self._tracer = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        if self._tracer is None:
            return (yield)
        self._tracer.start()
        try:
            return (yield)
        finally:
            self._tracer.stop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        result = yield
        if result.skipped:
            self._outcome = "skipped"
        elif result.passed and result.when == "call" and self._outcome == "error":
            self._outcome = "passed"
        elif result.failed and self._outcome != "failed":
            self._outcome = "failed" if result.when == "call" else "error"
            if call.excinfo is not None:
                timers.start(1.0, clock_sec=1.0)
                try:
                    self._error = explain.describe(call.excinfo.value, self._root)
                except BaseException as error:
                    self._error = {"type": type(error).__name__, "message": "while explaining", "frames": []}
                finally:
                    timers.start(self._test_timeout)
        return result
