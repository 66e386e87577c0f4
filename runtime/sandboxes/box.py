"""A running sandbox as the runtime uses it, over a box's control channel. The same for every way of making a box.

It does not know how the box was isolated; ``Paths`` says how names inside become names that the supervisor sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from runtime.errors import Termination, TrialError
from runtime.sandboxes.base import ArtifactsRefused, ExecResult, SandboxRequest
from runtime.sandboxes.channel import Answer, BoxLost, Channel
from runtime.sandboxes.entries import Entry, Removed, Same, made

GRACE_SEC = 15.0
"""How long an answer may take beyond the time limit that the supervisor itself keeps."""
TRANSFER_SEC = 120.0


def check_lower(request: SandboxRequest, *, images: bool = False) -> None:
    """images: whether this backend makes boxes of a task's own image. Raises ``TrialError``."""
    if request.root is not None and not images:
        why = f"boxes of this kind are not made of the task's own image, {request.root.reference}"
        raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {why}")
    if not request.lower.is_dir():
        raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {request.lower}: no such folder")


class Paths:
    """Names inside -> names for the supervisor: the same in an isolated box."""

    def inside(self, text: str) -> str:
        return text

    def outside(self, text: str) -> str:
        return text


class BoxSandbox:
    """Implements ``Sandbox``. ``on_stop`` gives back what the provider lent (once).

    oom_kills: how many processes the kernel has killed for memory where this box runs, ever; out_of_memory: asks,
    once the box is lost, whether that was why; host_fault: whether it is proved that nothing inside ended it.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        name: str,
        workdir: str,
        env: Mapping[str, str],
        proxy_url: str | None,
        on_stop: Callable[[], Awaitable[None]],
        oom_kills: Callable[[], int] = lambda: 0,
        out_of_memory: Callable[[], Awaitable[bool]] | None = None,
        host_fault: Callable[[], Awaitable[bool]] | None = None,
        paths: Paths | None = None,
    ) -> None:
        self.name = name
        self.workdir = workdir
        self._channel = channel
        self._env = dict(env)
        self._proxy_url = proxy_url
        self._on_stop = on_stop
        self._oom_kills = oom_kills
        self._oom_before = oom_kills()
        self._out_of_memory = out_of_memory
        self._host_fault = host_fault
        self._paths = paths or Paths()
        self._stopping: asyncio.Task[None] | None = None

    @property
    def proxy_url(self) -> str | None:
        return self._proxy_url

    @property
    def alive(self) -> bool:
        """False once the box is known to be gone."""
        return not self._channel.lost

    @property
    def oom_kills(self) -> int:
        """Processes that the kernel has killed in this box for memory."""
        return self._oom_kills() - self._oom_before

    async def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_sec: float,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        inside = self._paths.inside
        merged = {**self._env, **(env or {})}
        request = {
            "op": "exec",
            "argv": [inside(word) for word in argv],
            "cwd": inside(cwd or self.workdir),
            "env": {key: inside(value) for key, value in merged.items()},
            "timeout": timeout_sec,
            "max_output": max_output,
        }
        header, blobs = await self._request(request, [stdin], timeout_sec=timeout_sec)
        if header.get("timed_out"):
            raise TimeoutError(f"{argv[0]} took longer than {timeout_sec:g} s")
        exit_code = header.get("exit_code")
        if type(exit_code) is not int or len(blobs) != 2:
            raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: malformed answer to exec")
        return ExecResult(exit_code, *blobs)

    async def upload(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        paths = [self._paths.inside(path) for path in files]
        await self._request({"op": "upload", "paths": paths, "mode": mode}, list(files.values()))

    async def download(self, paths: Sequence[str], *, max_bytes: int = 16 << 20) -> dict[str, bytes]:
        request = {"op": "download", "paths": [self._paths.inside(path) for path in paths], "max_bytes": max_bytes}
        header, blobs = await self._request(request)
        names = header.get("paths")
        if not isinstance(names, list) or len(names) != len(blobs) or not all(isinstance(name, str) for name in names):
            raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: malformed answer to download")
        return {self._paths.outside(name): blob for name, blob in zip(names, blobs, strict=True)}

    async def tree(
        self, paths: Sequence[str], *, max_bytes: int, known: Mapping[str, str] | None = None
    ) -> dict[str, Entry]:
        request = {"op": "tree", "paths": [self._paths.inside(path) for path in paths], "max_bytes": max_bytes}
        told = [] if known is None else [json.dumps({self._paths.inside(path): is_ for path, is_ in known.items()})]
        header, blobs = await self._request(request, [text.encode() for text in told])
        try:
            found = zip(header["entries"], blobs, strict=True)
            tree = {self._paths.outside(str(name)): made(kind, blob) for (name, kind), blob in found}
            if known is None:
                return tree
            whole = dict.fromkeys(known, Same()) | tree
            return {name: entry for name, entry in whole.items() if not isinstance(entry, Removed)}
        except (KeyError, TypeError, ValueError) as error:
            raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: malformed answer to tree") from error

    async def run_tests(self, runner: str, *, timeout_sec: float, **arguments: Any) -> dict[str, Any]:
        """A report of the test kit (``testkit/report.py``); ``arguments`` are those of its ``run``, without timeout.

        The supervisor answers nothing else meanwhile. The report is data from a box in which the code under test ran.
        """
        arguments = {"root": self._paths.inside(self.workdir), "timeout": timeout_sec, **arguments}
        header, _ = await self._request(
            {"op": "tests", "runner": runner, "arguments": arguments}, timeout_sec=timeout_sec
        )
        report = header.get("report")
        if not isinstance(report, dict):
            raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: malformed answer to tests")
        return report

    async def serve_partner(self) -> None:
        """Have the code under test run here for a test run of the box at the other end (``pair.py``)."""
        await self._request({"op": "partner"})

    async def stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)  # a cancelled caller must not leave half a box behind

    async def _stop(self) -> None:
        with contextlib.suppress(OSError, RecursionError):  # folders without end, where a box is one of the host's
            await self._on_stop()

    async def _request(
        self, request: dict[str, Any], blobs: Sequence[bytes] = (), *, timeout_sec: float = TRANSFER_SEC
    ) -> Answer:
        try:
            header, answered = await self._channel.request(request, blobs, timeout_sec=timeout_sec + GRACE_SEC)
        except BoxLost as error:
            memory = self.oom_kills or (self._out_of_memory is not None and await self._out_of_memory())
            lost = Termination.OUT_OF_MEMORY if memory else Termination.SANDBOX_LOST
            ours = not memory and self._host_fault is not None and await self._host_fault()
            raise TrialError(lost, f"sandbox {self.name}: {error}", host_fault=ours) from error
        if header.get("refused") and request["op"] in ("download", "tree"):
            raise ArtifactsRefused(f"sandbox {self.name}: {header['error']}")
        if "error" in header:
            raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: {request['op']}: {header['error']}")
        return header, answered
