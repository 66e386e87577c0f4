"""The report of a test run as plain JSON data, and its collection from the process that runs the tests.

It knows neither how tests are found nor what a report is used for. A report is a dict::

    {"runner": "mini", "complete": bool, "tests": {id: RESULT, ...}, "collect_errors": {file: ERROR, ...},
     "trace": {"test": id, "lines": {file: [int, ...]}, "recent": [[file, int], ...]} | None,
     "places": [str, ...], "refused": [str, ...], "changed": [str, ...], "output": str,
     "ended": "exit" | "timeout" | "crash" | "stopped", "runner_error": str | None}
    RESULT = {"outcome": "passed" | "failed" | "error" | "skipped", "seconds": float, "error": ERROR | None}
    ERROR = {"type": str, "message": str, "frames": [[file, line, function, source line], ...]}

``places``: where objects of a solution in another process came from (``apart.py``); ``refused``: where they came from
and may not; ``changed``: which functions changed what they were given, and the known solution's do not. ``stopped``:
after the first test that did not pass, as asked. ``runner_error``: the runner failed, or ended before it came to the
code under test, so the report says nothing about that code. Files are relative to the repository; ``frames`` are the
traceback's lines inside the repository, outermost first. The process under test streams one line of JSON per event, so
that whatever it reported before it died is kept. Lines carry a nonce; others are ignored.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import time

TYPE_CHECKING = False  # typing costs 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_STREAM = 8 << 20  # bytes of events that are read from one run; more is a runaway, not a report
MAX_PIPE = 4 << 20  # bytes that were written before the end and are read after it
MAX_OUTPUT = 4096  # bytes of the run's stdout and stderr that are kept (its end)


KEPT = 4


class Stream:
    """The writing end, held by the process that runs the tests."""

    def __init__(self, fd: int, nonce: str) -> None:
        self._fd = fd
        self._nonce = nonce
        self._owner = os.getpid()

    def send(self, event: dict[str, Any]) -> None:
        if os.getpid() != self._owner:
            return  # a test forked and its child came back into the runner
        data = f"{self._nonce}{json.dumps(event)}\n".encode()
        while data:
            data = data[os.write(self._fd, data) :]


def collect(
    work: Callable[[Stream], None],
    *,
    runner: str,
    timeout: float,
    nonce: str = "",
    output: bool = True,
    stop_first: bool = False,
    keep: int = -1,
) -> dict[str, Any]:
    """Run ``work`` in a forked child with its own session and return the report of what it streamed.

    The child is waited for by its exit, never by its pipes (a daemon of the tests may hold them open for ever); after
    ``timeout`` seconds its process group is killed. A test that was running then gets the outcome ``error``.
    stop_first: kill it also after the first test that did not pass; decided here, so that the child does not know.
    keep: a descriptor that the child has as ``KEPT``.
    """
    events_r, events_w = os.pipe()
    output_r, output_w = os.pipe() if output else (-1, -1)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            # The supervisor is told of its children by a byte in a pipe: here its number would be some file of theirs.
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(events_r)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(output_w if output else null, 1)
            os.dup2(output_w if output else null, 2)
            kept = fcntl.fcntl(keep, fcntl.F_DUPFD, 64) if keep >= 0 else -1
            os.dup2(events_w, 3)
            if kept >= 0:
                os.dup2(kept, KEPT)
            # The code under test gets none of the caller's files and sockets.
            os.closerange(KEPT if kept < 0 else KEPT + 1, 1 << 20)
            stream = Stream(3, nonce)
            try:
                work(stream)
            except BaseException as error:
                stream.send({"event": "runner_error", "error": f"{type(error).__name__}: {error}"[:500]})
                raise
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
        finally:
            os._exit(code)
    os.close(events_w)
    if output:
        os.close(output_w)
    events, tail, ended = _drain(pid, events_r, output_r, timeout, nonce.encode() if stop_first else None)
    return _assemble(events, tail, ended, runner=runner, nonce=nonce)


def _drain(
    pid: int, events_r: int, output_r: int, timeout: float, stop_first: bytes | None
) -> tuple[bytes, bytes, str]:
    """stop_first: the nonce of lines whose bad news end the run; None to let it go on."""
    deadline = time.monotonic() + timeout
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    fds = [fd for fd in (events_r, output_r) if fd >= 0]
    for fd in fds:
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    chunks = {fd: bytearray() for fd in fds}
    ended = ""
    looked = 0
    while not ended:
        left = deadline - time.monotonic()
        ready = [fd for fd, _ in poll.poll(max(0.0, left) * 1000)]
        for fd in ready:
            if fd != pidfd and not _read(fd, chunks[fd], fd == output_r):
                poll.unregister(fd)
        if pidfd in ready:
            ended = "exit"
        elif left <= 0 or len(chunks[events_r]) > MAX_STREAM:
            ended = "timeout"
        elif stop_first is not None and events_r in ready:
            end = chunks[events_r].rfind(b"\n") + 1
            if any(_is_bad(line, stop_first) for line in bytes(chunks[events_r][looked:end]).split(b"\n")):
                ended = "stopped"
            looked = end
    try:
        os.killpg(pid, signal.SIGKILL)  # also what the tests left running in their group
    except ProcessLookupError:
        pass
    _, status = os.waitpid(pid, 0)
    for fd in fds:
        # What left the group may write on without end: no more is taken than the pipe may have held.
        for _ in range(MAX_PIPE // 65536):
            if not _read(fd, chunks[fd], fd == output_r) or len(chunks[fd]) > MAX_STREAM:
                break
        os.close(fd)
    os.close(pidfd)
    if ended == "exit" and status:
        ended = "crash"
    return bytes(chunks[events_r]), bytes(chunks.get(output_r, b"")), ended


def _is_bad(line: bytes, prefix: bytes) -> bool:
    if not line.startswith(prefix):
        return False
    try:
        event = json.loads(line[len(prefix) :])
        return bool(
            event["event"] == "collect_error" or (event["event"] == "test" and event["outcome"] in ("failed", "error"))
        )
    except (ValueError, KeyError, TypeError):
        return False


def _read(fd: int, into: bytearray, tail_only: bool) -> bool:
    """One read; False at end of file or when nothing is there."""
    try:
        part = os.read(fd, 65536)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EINTR):
            return False
        raise
    into += part
    if tail_only:
        del into[:-MAX_OUTPUT]
    return bool(part)


def _assemble(events: bytes, tail: bytes, ended: str, *, runner: str, nonce: str) -> dict[str, Any]:
    tests: dict[str, Any] = {}
    report: dict[str, Any] = {
        "runner": runner,
        "complete": False,
        "tests": tests,
        "collect_errors": {},
        "trace": None,
        "places": [],
        "refused": [],
        "changed": [],
        "output": tail.decode(errors="replace"),
        "ended": ended,
        "runner_error": None,
    }
    began = False
    running: str | None = None
    prefix = nonce.encode()
    for line in events[:MAX_STREAM].split(b"\n"):
        if not line.startswith(prefix) or len(line) == len(prefix):
            continue
        try:
            event = json.loads(line[len(prefix) :])
            kind = event["event"]
            if kind == "begin":
                began = True
            elif kind == "runner_error":
                report["runner_error"] = str(event["error"])
            elif kind == "start":
                running = event["id"]
            elif kind == "test":
                running = None
                tests.setdefault(event["id"], {key: event[key] for key in ("outcome", "seconds", "error")})
            elif kind == "collect_error":
                report["collect_errors"][event["file"]] = event["error"]
            elif kind == "trace":
                report["trace"] = {key: event[key] for key in ("test", "lines", "recent")}
            elif kind in ("places", "refused", "changed"):
                report[kind] = [str(place) for place in event["places"]]
            elif kind == "done":
                report["complete"] = True
        except (ValueError, KeyError, TypeError):
            continue  # not ours: the code under test shares the process and may write anything
    if not began and report["runner_error"] is None and ended != "timeout":
        report["runner_error"] = "it ended before the first test file"
    if running is not None and running not in tests:
        why = "Timeout" if ended == "timeout" else "Crashed"
        message = "the test run was stopped" if why == "Timeout" else "the process ended during this test"
        error: dict[str, Any] = {"type": why, "message": message, "frames": []}
        tests[running] = {"outcome": "error", "seconds": 0.0, "error": error}
    return report
