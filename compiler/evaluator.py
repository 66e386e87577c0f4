"""The child processes that evaluate Jsonnet, seen from the compiler: start, ask, wait, keep for the next question.

Knows processes, pipes and clocks; knows nothing of Jsonnet or of specs.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

IDLE_SEC = 20.0
"""How long a child waits for the next question before it leaves by itself."""
MEMORY_BYTES = 2 << 30
LOOK_SEC = 0.5
"""How often a child that is late is looked at."""
IDLE_LOOKS = 4
"""So many looks without any work, and what it waits for is no core: a late child is given up."""
_KEPT = 2
"""Idle children that are kept at most."""

_HERE = Path(__file__).parent


class Ended(Exception):
    """The child died while it was asked. ``returncode`` as of subprocess; ``stderr`` is its last output."""

    def __init__(self, returncode: int, stderr: bytes) -> None:
        super().__init__(returncode)
        self.returncode, self.stderr = returncode, stderr


class Evaluator:
    """One child. Not for several threads at a time."""

    def __init__(self) -> None:
        folders = os.pathsep.join([str(_engine().parent), str(_HERE)])
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_HERE / "evaluate_child.py"), folders, str(MEMORY_BYTES), str(IDLE_SEC)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            bufsize=0,
            # The engine's collector: rarely while the heap is small, a quarter of its time; eagerly near the limit.
            env={**os.environ, "GOGC": "400", "GOMEMLIMIT": str(MEMORY_BYTES // 2)},
        )
        # An answer should not wait for its reader: the child goes on with the positions meanwhile.
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)  # type: ignore[arg-type]
        self.retired = False
        """It leaves by itself after its answer."""
        self._buffer = bytearray()
        self._stderr = b""
        self._open = [stream for stream in (self.process.stdout, self.process.stderr) if stream is not None]

    def ask(self, parts: Sequence[str]) -> None:
        """Send a request; the child works on it while the caller does something else."""
        assert self.process.stdin is not None
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        message = b"".join([" ".join([str(len(part)) for part in encoded]).encode(), b"\n", *encoded])
        # A child that is gone is noticed when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            while message:
                message = message[self.process.stdin.write(message) or 0 :]

    def cpu_sec(self) -> float:
        """What the child has used of the cores so far."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _wants_a_core(self) -> bool:
        """Whether a thread of the child runs, or would if a core were free."""
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    if (thread / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"R":
                        return True
        return False

    def answer(self, deadline: float, last: float) -> list[str]:
        """The parts of the next answer. Raises ``Ended``, and ``TimeoutError`` after ``deadline`` (monotonic), but of a
        child that others keep from the cores not before ``last``: what it may use of them is limited in the child."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            self._read(deadline, last)
        lengths = [int(length) for length in self._buffer[:end].split()]
        del self._buffer[: end + 1]
        while len(self._buffer) < sum(lengths):
            self._read(deadline, last)
        parts, start = [], 0
        for length in lengths:
            parts.append(self._buffer[start : start + length].decode("utf-8", "surrogatepass"))
            start += length
        del self._buffer[:start]
        return parts

    def _read(self, deadline: float, last: float) -> None:
        """Whatever comes next, into the buffer."""
        assert self.process.stdout is not None and self.process.stderr is not None
        if not self._open:
            raise Ended(self.process.wait(), self._stderr)
        # What has arrived is read even when the caller comes late.
        ready = select.select(self._open, [], [], max(0.0, deadline - time.monotonic()))[0]
        used, idle = self.cpu_sec() if not ready else 0.0, 0
        while not ready:
            before, used = used, self.cpu_sec()
            idle = 0 if used > before or self._wants_a_core() else idle + 1
            if idle >= IDLE_LOOKS or time.monotonic() > last:
                raise TimeoutError
            ready = select.select(self._open, [], [], LOOK_SEC)[0]
        for stream in ready:
            data = os.read(stream.fileno(), 1 << 20)
            if stream is self.process.stdout:
                self._buffer += data
            else:
                self._stderr = (self._stderr + data)[-4000:]
            if not data:
                self._open.remove(stream)

    def close(self) -> None:
        """End the child. Idempotent."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


_idle: list[Evaluator] = []
_lock = threading.Lock()


def borrow() -> Evaluator:
    """An idle child, or a new one."""
    while True:
        with _lock:
            found = _idle.pop() if _idle else None
        if found is None:
            return Evaluator()
        if found.process.poll() is None:
            return found
        found.close()


def give_back(evaluator: Evaluator) -> None:
    """Keep a child whose answer was read to the end."""
    with _lock:
        if not evaluator.retired and len(_idle) < _KEPT:
            _idle.append(evaluator)
            return
    evaluator.close()


@atexit.register
def close_all() -> None:
    """End all idle children."""
    with _lock:
        waiting, _idle[:] = list(_idle), []
    for evaluator in waiting:
        evaluator.close()


def _forget() -> None:
    # A forked process shares the pipes of its parent's children; asking through them would mix up the answers.
    for evaluator in _idle:
        evaluator.process.returncode = 0  # not ours to wait for
    _idle.clear()


os.register_at_fork(after_in_child=_forget)


def _engine() -> Path:
    found = importlib.util.find_spec("_gojsonnet")
    assert found is not None and found.origin is not None, "gojsonnet is a declared dependency"
    return Path(found.origin)
