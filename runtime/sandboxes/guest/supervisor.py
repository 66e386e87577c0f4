"""Process 1 of a box: takes orders from the host over one socket, runs commands, moves files.

It never runs untrusted code itself. When the host closes the socket, or dies, the supervisor ends, and with it
everything in its pid namespace. Requests are messages (see ``wire.py``) with an ``op`` and an ``id``; each gets one
answer.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import time

from . import files, second, wire
from .commands import Command
from .tunnel import Tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .stdio import Stdio


class Supervisor:
    """tunnel: a listener whose connections travel as messages, because the host cannot hold it itself. second_user: the
    process that runs solutions under another uid. partner: to another box that judges what runs here, or runs what is
    judged here."""

    def __init__(
        self,
        connection: socket.socket | Stdio,
        *,
        tunnel: socket.socket | None = None,
        second_user: socket.socket | None = None,
        partner: socket.socket | None = None,
    ) -> None:
        self._connection = connection
        self._second_user = second_user
        self._partner = partner
        self._buffer = wire.Buffer()
        self._poll = select.poll()
        self._commands: dict[int, Command] = {}  # by process, while it runs
        self._pipes: dict[int, Command] = {}  # by descriptor, as long as anybody holds the other end
        self._wakeup, wakeup = os.pipe()
        for fd in (self._wakeup, wakeup):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._poll.register(connection.fileno(), select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)
        self._tunnel = Tunnel(tunnel, self._poll, self._send) if tunnel is not None else None

    def serve(self) -> None:
        """Until the host hangs up."""
        while True:
            for fd, events in self._poll.poll(self._patience()):
                if fd == self._connection.fileno():
                    data = self._connection.recv(1 << 18)
                    if not data:
                        return
                    for request, blobs in self._buffer.feed(data):
                        self._handle(request, blobs)
                elif fd == self._wakeup:
                    os.read(fd, 4096)
                elif self._tunnel is not None and self._tunnel.owns(fd):
                    self._tunnel.ready(fd, events)
                elif fd in self._pipes and not self._pipes[fd].pump(fd):
                    self._poll.unregister(fd)
                    del self._pipes[fd]
                    os.close(fd)
            now = time.monotonic()
            for command in self._commands.values():
                if now >= command.deadline and not command.timed_out:
                    command.kill()
            self._reap()

    def _patience(self) -> float | None:
        """Milliseconds until the next deadline."""
        deadlines = [command.deadline for command in self._commands.values() if not command.timed_out]
        return max(0.0, min(deadlines) - time.monotonic()) * 1000 + 1 if deadlines else None

    def _reap(self) -> None:
        """Commands that ended, and orphans: processes whose parents died became ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            command = self._commands.pop(pid, None)
            if command is not None:
                output = command.ended(status, set(self._pipes))
                answer = {"exit_code": command.exit_code, "timed_out": command.timed_out}
                self._answer(command.id, answer, output)

    def _handle(self, request: dict[str, Any], blobs: Sequence[bytes]) -> None:
        if request["op"] == "stream":  # needs no answer
            if self._tunnel is not None:
                self._tunnel.message(request["stream"], request["event"], b"".join(blobs))
            return
        try:
            answer = self._dispatch(request, blobs)
        except (OSError, files.Refused) as error:
            refused = isinstance(error, files.Refused)
            self._answer(request["id"], {"error": str(error), "refused": refused}, ())
            return
        if answer is not None:
            self._answer(request["id"], *answer)

    def _dispatch(
        self, request: dict[str, Any], blobs: Sequence[bytes]
    ) -> tuple[dict[str, Any], Sequence[bytes]] | None:
        """The answer, or None if it comes later."""
        operation = request["op"]
        if operation == "exec":
            try:
                command = Command(request, blobs[0])
            except BlockingIOError as error:  # no process is left to the box: the command's failure, not the box's
                return {"exit_code": 126, "timed_out": False}, (b"", f"{error}\n".encode())
            self._commands[command.pid] = command
            for fd in command.streams:
                self._pipes[fd] = command
                self._poll.register(fd, select.POLLIN)
            return None
        if operation == "upload":
            for path, content in zip(request["paths"], blobs, strict=True):
                files.write(path, content, request["mode"])
            return {}, ()
        if operation == "download":
            found = files.read(request["paths"], request["max_bytes"])
            return {"paths": list(found)}, list(found.values())
        if operation == "tree":
            known = json.loads(blobs[0]) if blobs else None
            entries = files.tree(request["paths"], request["max_bytes"], known)
            kinds = [[path, kind] for path, (kind, _) in entries.items()]
            return {"entries": kinds}, [content for _, content in entries.values()]
        if operation == "tests":
            return {"report": self._run_tests(request["runner"], request["arguments"])}, ()
        if operation == "partner":
            if self._partner is None:
                raise OSError("this box has no partner")
            second.serve_partner(self._partner)
            self._partner.close()
            return {}, ()
        raise OSError(f"unknown operation {operation!r}")

    def _answer(self, request_id: int, header: dict[str, Any], blobs: Sequence[bytes]) -> None:
        self._send({"id": request_id, **header}, blobs)

    def _send(self, header: dict[str, Any], blobs: Sequence[bytes]) -> None:
        wire.send(self._connection, header, blobs)

    def _run_tests(self, runner: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A test run in a forked child (see ``testkit``); the supervisor answers nothing else meanwhile."""
        module = importlib.import_module("testkit.pytest_runner" if runner == "pytest" else "testkit.mini")
        if "trusted" not in arguments:
            report: dict[str, Any] = module.run(**arguments)
            return report
        if self._partner is not None:
            return second.run_beside(self._partner, module, arguments)
        if self._second_user is None:
            raise OSError("this box has no second user")
        return second.run_apart(self._second_user, module, arguments)
