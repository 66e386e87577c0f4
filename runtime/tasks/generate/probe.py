"""Runs a package's tests against many versions of its files: one process that has pytest loaded, a fork per request.

Started inside a sandbox as ``python probe.py [FOLDER]...`` with the package's folder as current directory; it and the
folders below it are put on Python's path. Standard library and
pytest only; it imports nothing of LiveRL. Requests arrive as JSON lines on standard input, answers leave in the same
order on standard output.

Request: ``{"tests": [id, ...] (empty: all), "files": {path: text}, "calls": bool, "cpu_sec": s, "wall_sec": s,
"share": bool}`` Answer: ``{"outcomes": {id: ["passed" | "failed" | "skipped", seconds, random]}, "calls": {id: [[path,
line], ...]}, "cpu_sec": s, "error": null | "timeout" | "crashed" | text}``

Every fork imports the package anew, with the request's files in place: no state and no stale definition survives from
one version to the next, so that mutants of defaults, decorators and module level are as true as others. ``calls`` asks
which functions of the package each test calls (path, first line). ``random`` marks tests whose inputs are drawn
(hypothesis). ``share`` keeps compiled files and loads in the parent what the package imports from elsewhere, for the
requests that follow; it is for pristine versions.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = os.getcwd() + os.sep  # noqa: PTH109 - this prefix is compared with every code object's file name
MEMORY_BYTES = 2 << 30
OPTIONS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "--rootdir=.",
    "-o",
    "addopts=",
    "--continue-on-collection-errors",
    "--tb=no",
)


class Recorder:
    """A pytest plug-in that keeps one outcome per test, and the functions that it called."""

    def __init__(self, *, calls: bool) -> None:
        self.outcomes: dict[str, list[Any]] = {}
        self.calls: dict[str, list[tuple[str, int]]] = {}
        self.said = ""
        self._want_calls = calls

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, Any, Any]:
        function = getattr(item, "obj", None)
        random = bool(getattr(function, "is_hypothesis_test", False) or getattr(function, "hypothesis", None))
        self.outcomes[item.nodeid] = ["skipped", 0.0, random]
        seen: set[Any] = set()
        started = own_clock()
        if self._want_calls:
            sys.setprofile(lambda frame, event, _: seen.add(frame.f_code) if event == "call" else None)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            self.outcomes[item.nodeid][1] = round(own_clock() - started, 4)
            if self._want_calls:
                self.calls[item.nodeid] = sorted(
                    (code.co_filename.removeprefix(ROOT), code.co_firstlineno)
                    for code in seen
                    if code.co_filename.startswith(ROOT)
                )

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.said:
            self.said = next((line for line in reversed(str(report.longrepr).splitlines()) if line.strip()), "").strip()

    def pytest_runtest_logreport(self, report: Any) -> None:
        row = self.outcomes.get(report.nodeid)
        if row is None:
            return
        if report.outcome == "failed":
            row[0] = "failed"
        elif report.when == "call" and report.outcome == "passed" and row[0] == "skipped":
            row[0] = "passed"


def own_clock() -> float:
    """Seconds, but for those in which this thread was ready to run and other programs had the processors."""
    try:
        waited = int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # a kernel that does not count it
        waited = 0.0
    return time.perf_counter() - waited


def run_tests(request: dict[str, Any]) -> dict[str, Any]:
    """In the child: run the tests of one request."""
    recorder = Recorder(calls=request["calls"])
    tests = request["tests"]
    code = pytest.main([*OPTIONS, *tests], plugins=[recorder])
    wanted = set(tests)
    outcomes = {
        test: row
        for test, row in recorder.outcomes.items()
        if not wanted or test in wanted or test.partition("::")[0] in wanted
    }
    why = f"pytest ended with {int(code)} before any test" + (f": {recorder.said[:200]}" if recorder.said else "")
    times = resource.getrusage(resource.RUSAGE_SELF)
    answer = {
        "outcomes": outcomes,
        "calls": recorder.calls,
        "cpu_sec": times.ru_utime + times.ru_stime,
        "error": None if outcomes or code == 5 else why,
    }
    if request["share"]:
        answer["modules"] = [
            name
            for name, module in list(sys.modules.items())
            if not str(getattr(module, "__file__", None) or ROOT).startswith(ROOT)
        ]
    return answer


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """In the parent: one fork, with the request's files in place while it runs."""
    kept: dict[Path, tuple[bytes, int]] = {}
    for name, text in request["files"].items():
        path = Path(name)
        kept[path] = (path.read_bytes(), path.stat().st_mtime_ns)
        path.write_text(text, encoding="utf-8", newline="")
        # Compiled files are matched by size and whole second of change: without this a mutant could run as the
        # original.
        os.utime(path, ns=(time.time_ns(), kept[path][1] + (1 << 20) * 10**9))
    try:
        return fork(request)
    finally:
        for path, (content, modified) in kept.items():
            path.write_bytes(content)
            os.utime(path, ns=(modified, modified))


def fork(request: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            answer = child(request)
        except BaseException as error:
            answer = {"outcomes": {}, "calls": {}, "cpu_sec": 0.0, "error": f"{type(error).__name__}: {error}"[:300]}
        with contextlib.suppress(BaseException), os.fdopen(writing, "w") as out:
            out.write(json.dumps(answer))
        os._exit(0)
    os.close(writing)
    data, deadline, ended = bytearray(), time.monotonic() + request["wall_sec"], "crashed"
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            ended = "timeout"
            break
        part = os.read(reading, 1 << 16)
        if not part:
            break
        data += part
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        ended = "timeout"
    try:
        parsed: dict[str, Any] = json.loads(data)
    except ValueError:
        return {"outcomes": {}, "calls": {}, "cpu_sec": 0.0, "error": ended}
    return parsed


def child(request: dict[str, Any]) -> dict[str, Any]:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # Processor time, not wall time, decides what is an endless loop: the same on a busy machine.
    signal.setitimer(signal.ITIMER_PROF, request["cpu_sec"])
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    sys.dont_write_bytecode = not request["share"]
    return run_tests(request)


def main() -> None:
    sys.path[0:1] = [ROOT.rstrip(os.sep), *(ROOT + folder for folder in sys.argv[1:])]
    orders = sys.stdin.buffer.read().splitlines()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    for order in orders:
        request = json.loads(order)
        answer = serve(request)
        for name in answer.pop("modules", ()):
            with contextlib.suppress(BaseException):
                importlib.import_module(name)
        out.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
