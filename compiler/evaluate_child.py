"""The child process that evaluates Jsonnet: limited in memory and time, its imports jailed and recorded.

Started by ``compiler.evaluator`` as a plain file with ``python -I -S FOLDERS MEMORY_BYTES IDLE_SEC``; it imports the
engine, the standard library and ``instrument.py`` beside it, nothing else. Requests and answers are messages: a line
with the lengths of the parts, then the parts. A request is answered by the value or the error, if it asks for one, and
by the same value with marks. It serves one request after another, every one in a Jsonnet machine of its own and under a
CPU limit of its own, and leaves when nobody asks or when an evaluation made it large. A hostile spec can kill this
process, never the command.
"""

# Every import here is paid by each cold compile: pathlib, json or signal would cost more than the evaluation.
# ruff: noqa: PTH113, PTH118, PTH123, PTH202, SIM105

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself loads enum
import os
import resource
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

RETIRE_KIB = 384 << 10
"""An evaluator that was once this large is not used again: the engine gives no memory back."""

MARKED_BYTES = 256 << 20
"""Of a value with its marks: more would cost the reader more than the places are worth."""
REFUSED = "import refused"
_instrumented: dict[tuple[str, bytes, bool], bytes] = {}
"""Instrumented files by name and content: a sweep reads the same files for every batch of points."""


class Jail:
    """Import callback: files below the spec's folder, the library, or the specs that come with the program, nothing
    else; remembers what was read."""

    def __init__(self, root: str, library: str, specs: str, *, marks: str = "") -> None:
        """``marks``: "visible" or "hidden" ones are put into every Jsonnet file. ``specs`` may be "": none."""
        self.root, self.library, self.specs, self.marks = root, library, specs, marks
        self.allowed = [folder for folder in (root, library, specs) if folder]
        self.read: dict[str, bytes] = {}
        self.refusal: str | None = None

    def name(self, path: str) -> str:
        """How a file is called in messages and digests: relative to the spec's folder, or ``<library>/...``, or
        ``<specs>/...``."""
        if _inside(path, self.library):
            return "<library>/" + os.path.relpath(path, self.library)
        if self.specs and _inside(path, self.specs) and not _inside(path, self.root):
            return "<specs>/" + os.path.relpath(path, self.specs)
        return os.path.relpath(path, self.root)

    def __call__(self, base: str, relative: str) -> tuple[str, bytes]:
        try:
            return self.load(base, relative)
        except (RuntimeError, OSError, UnicodeDecodeError) as error:
            # The engine garbles some texts of foreign exceptions, so ours is kept here.
            self.refusal = f"import of '{relative}': {error}"
            raise RuntimeError(REFUSED) from None

    def load(self, base: str, relative: str) -> tuple[str, bytes]:
        for folder in (base or self.root, *self.allowed[1:]):
            path = os.path.realpath(os.path.join(folder, relative))
            if not os.path.isfile(path):
                continue
            if not any(_inside(path, folder) for folder in self.allowed):
                raise RuntimeError("outside the spec's folder; allowed: files below it, or the library")
            if os.path.getsize(path) > 16 << 20:
                raise RuntimeError("larger than 16 MiB")
            with open(path, "rb") as file:
                data = file.read()
            if path.endswith((".jsonnet", ".libsonnet")):
                _text(data)
            self.read[self.name(path)] = data
            if self.marks and path.endswith((".jsonnet", ".libsonnet")):
                data = _marked(data, self.name(path), visible=self.marks == "visible")
            return path, data
        raise RuntimeError("no such file in the spec's folder or the library")


def _text(data: bytes) -> None:
    """Raises ``RuntimeError`` for what is no UTF-8, which the engine would read with other characters in its place."""
    for mark, name in ((b"\xef\xbb\xbf", "a byte order mark"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if data.startswith(mark):
            raise RuntimeError(f"{name} at the beginning; allowed: UTF-8 without a byte order mark")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise RuntimeError(f"line {line} is not UTF-8 (byte {byte:#04x}); save the file as UTF-8") from None


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


def _marked(data: bytes, name: str, *, visible: bool) -> bytes:
    from instrument import instrument  # type: ignore[import-not-found]

    if (name, data, visible) not in _instrumented:
        if len(_instrumented) > 64:
            _instrumented.clear()
        _instrumented[name, data, visible] = instrument(data.decode("utf-8"), name, visible=visible).encode()
    return _instrumented[name, data, visible]


def serve(root: str, library: str, specs: str, expression: str, marked_expression: str, marks: str) -> None:
    """Answer one request on stdout. Either expression may be "".

    First answer: "json" or "error", the text, why an import was refused, then name and digest of every file that was
    read. Second answer: the JSON of the marked expression or "", and "retired" when this process leaves."""
    import _gojsonnet

    sound = True
    if expression:
        jail = Jail(root, library, specs)
        kind = "json"
        try:
            text = _gojsonnet.evaluate_snippet(
                "<command line>", expression, import_callback=jail, max_stack=500, max_trace=20
            )
            if len(text) > 64 << 20:
                kind, text = "error", f"the spec's value is {len(text) >> 20} MiB of JSON; allowed: 64 MiB"
        except UnicodeDecodeError as error:
            kind, text = "error", error.object.decode("utf-8", "replace")
        except RuntimeError as error:
            kind, text = "error", str(error)
        if kind == "error" and jail.refusal is not None:
            # The engine copies the text of an exception without its end: what follows in memory follows in the text.
            before, refused, after = text.partition(REFUSED)
            text = before + refused + after[max(0, after.find("\n\t")) :]
        sound = kind == "json"
        files = [part for name, data in sorted(jail.read.items()) for part in (name, _digest(data))]
        _send([kind, text, (jail.refusal or "") if not sound else "", *files])
    marked = ""
    if sound and marked_expression:
        # Positions are a help, not a result: any failure here only costs the places in later messages.
        try:
            marked = _gojsonnet.evaluate_snippet(
                "<positions>",
                marked_expression,
                import_callback=Jail(root, library, specs, marks=marks),
                max_stack=1000,
            )
        except (RuntimeError, UnicodeDecodeError):
            pass
    if len(marked) > MARKED_BYTES:
        marked = ""
    large = _peak_kib() > RETIRE_KIB
    _send([marked, "retired" if large else ""])
    if large:
        raise SystemExit(0)


def _send(parts: Iterable[str]) -> None:
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    out = sys.stdout.buffer
    out.write(" ".join([str(len(part)) for part in encoded]).encode() + b"\n")
    for part in encoded:
        out.write(part)
    out.flush()


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
    _signal.signal(_signal.SIGXCPU, _signal.SIG_DFL)
    requests = sys.stdin.buffer
    while select.select([0], [], [], idle)[0] and (line := requests.readline()):
        parts = [requests.read(int(length)).decode("utf-8", "surrogatepass") for length in line.split()]
        cpu_sec, root, library, specs, expression, marked_expression, marks = parts
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + int(cpu_sec)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        serve(root, library, specs, expression, marked_expression, marks)


if __name__ == "__main__":
    main()
