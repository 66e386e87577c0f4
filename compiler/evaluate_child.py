"""The child process that evaluates Jsonnet: limited in memory and time, its imports jailed and recorded.

Started by ``compiler.evaluator`` as a plain file with ``python -I -S FOLDERS MEMORY_BYTES IDLE_SEC``; it imports the
engine, the standard library and ``instrument.py`` beside it, nothing else. Each line on stdin is a request (JSON), each
is answered by two lines: the value or the error, and the positions of all values. It serves one request after another,
every one in a Jsonnet machine of its own and under a CPU limit of its own, and leaves when nobody asks or when an
evaluation made it large. A hostile spec can kill this process, never the command.
"""

# Every import here is paid by each cold compile: pathlib, typing or dataclasses would cost more than the evaluation.
# ruff: noqa: PTH113, PTH118, PTH123, PTH202

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RETIRE_KIB = 384 << 10
"""An evaluator that was once this large is not used again: the engine gives no memory back."""

_instrumented: dict[tuple[str, bytes], bytes] = {}
"""Instrumented files by name and content: a sweep reads the same files for every batch of points."""


class Jail:
    """Import callback: files below the spec's folder or the library, nothing else; remembers what was read."""

    def __init__(self, root: str, library: str, *, marked: bool) -> None:
        self.root, self.library, self.marked = root, library, marked
        self.read: dict[str, bytes] = {}
        self.refusal: str | None = None

    def name(self, path: str) -> str:
        """How a file is called in messages and digests: relative to the spec's folder, or ``<library>/...``."""
        if _inside(path, self.library):
            return "<library>/" + os.path.relpath(path, self.library)
        return os.path.relpath(path, self.root)

    def __call__(self, base: str, relative: str) -> tuple[str, bytes]:
        try:
            return self.load(base, relative)
        except (RuntimeError, OSError, UnicodeDecodeError) as error:
            # The engine garbles some texts of foreign exceptions, so ours is kept here.
            self.refusal = f"import of '{relative}': {error}"
            raise RuntimeError("import refused") from None

    def load(self, base: str, relative: str) -> tuple[str, bytes]:
        for folder in (base or self.root, self.library):
            path = os.path.realpath(os.path.join(folder, relative))
            if not os.path.isfile(path):
                continue
            if not (_inside(path, self.root) or _inside(path, self.library)):
                raise RuntimeError("outside the spec's folder; allowed: files below it, or the library")
            if os.path.getsize(path) > 16 << 20:
                raise RuntimeError("larger than 16 MiB")
            with open(path, "rb") as file:
                data = file.read()
            self.read[self.name(path)] = data
            if self.marked and path.endswith((".jsonnet", ".libsonnet")):
                data = _marked(data, self.name(path))
            return path, data
        raise RuntimeError("no such file in the spec's folder or the library")


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


def _marked(data: bytes, name: str) -> bytes:
    from instrument import instrument  # type: ignore[import-not-found]

    if (name, data) not in _instrumented:
        if len(_instrumented) > 64:
            _instrumented.clear()
        _instrumented[name, data] = instrument(data.decode("utf-8"), name).encode()
    return _instrumented[name, data]


def serve(request: dict[str, Any]) -> None:
    """Answer one request on stdout."""
    import _gojsonnet

    jail = Jail(request["root"], request["library"], marked=False)
    try:
        text = _gojsonnet.evaluate_snippet(
            "<command line>", request["expression"], import_callback=jail, max_stack=500, max_trace=20
        )
        answer: dict[str, Any] = {"json": text}
        if len(text) > 64 << 20:
            answer = {"error": f"the spec's value is {len(text) >> 20} MiB of JSON; allowed: 64 MiB"}
    except (RuntimeError, UnicodeDecodeError) as error:
        answer = {"error": str(error)}
        if jail.refusal is not None:
            answer["refusal"] = jail.refusal
    answer["imports"] = {name: _digest(data) for name, data in sorted(jail.read.items())}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    positions = None
    if "json" in answer:
        # Positions are a help, not a result: any failure here only costs the places in later messages.
        marked = Jail(request["root"], request["library"], marked=True)
        try:
            found = _gojsonnet.evaluate_snippet(
                "<positions>", request["marked_expression"], import_callback=marked, max_stack=1000
            )
            positions = json.loads(found)
        except (RuntimeError, UnicodeDecodeError):
            pass
    large = _peak_kib() > RETIRE_KIB
    sys.stdout.write(json.dumps({"positions": positions, "retired": large}) + "\n")
    sys.stdout.flush()
    if large:
        raise SystemExit(0)


def _peak_kib() -> int:
    """The largest resident size that this program had. ``ru_maxrss`` would do, but outlives exec: it may be that of the
    process that started this one.
    """
    with open("/proc/self/status") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("VmHWM:")), 0)


def _digest(data: bytes) -> str:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]  # without OpenSSL, which hashlib loads
    except ImportError:
        from hashlib import sha256
    found: str = sha256(data).hexdigest()
    return found


def main() -> None:
    folders, memory, idle = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    sys.path += folders.split(os.pathsep)
    import _gojsonnet  # noqa: F401 - loaded before memory is limited, and while the first request is still being made

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    while select.select([0], [], [], idle)[0] and (line := sys.stdin.buffer.readline()):
        request = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + request["cpu_sec"]
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        serve(request)


if __name__ == "__main__":
    main()
