"""Two boxes in the place of one, where a box cannot have a second user: one that judges, and one for the code under
test, which share nothing but a socket.

What the modes of files say in one box with two users, here the boxes do. Both have the same names below the work
directory; what is in a file has only the box of who may read it. It does not know how boxes are made.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from runtime.sandboxes.base import ExecResult, Sandbox
from runtime.sandboxes.box import BoxSandbox
from runtime.sandboxes.entries import Entry
from runtime.sandboxes.remote import RemoteSandbox

log = logging.getLogger(__name__)


class _Box(Sandbox, Protocol):
    name: str
    workdir: str


BoxT = TypeVar("BoxT", bound=_Box)

_OWN = 0o400
_OTHERS = 0o007
_CLOSED = 0o000
_MEET_SEC = 75.0
"""What two boxes that have to find each other may take longer than their tests."""
_HANG_UP_SEC = 2.0


class _Pair(Generic[BoxT]):
    """``Sandbox`` for verdicts, but for test runs. ``judge``: reads what is for its own user alone, and runs the tests;
    ``solution``: reads what others may read, and runs the code under test."""

    def __init__(self, judge: BoxT, solution: BoxT) -> None:
        self.name = judge.name
        self.workdir = judge.workdir
        self._judge = judge
        self._solution = solution

    @property
    def proxy_url(self) -> str | None:
        return None

    @property
    def alive(self) -> bool:
        return self._judge.alive and self._solution.alive

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
        """In both, so that both have the same names; what failed in one of them is the outcome."""
        judged, solved = await asyncio.gather(
            *(
                box.exec(argv, cwd=cwd, env=env, stdin=stdin, timeout_sec=timeout_sec, max_output=max_output)
                for box in (self._judge, self._solution)
            )
        )
        return judged if judged.exit_code else solved

    async def upload(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        """mode: who may read it, as in one box: its own user, others, or both."""
        named = dict.fromkeys(files, b"")
        if mode & _OTHERS:
            inside = 0o600 | (mode & _OTHERS) * 0o111  # the code under test has no other user than that box's own
            known = self._judge.upload(files, mode=mode) if mode & _OWN else self._judge.upload(named, mode=_CLOSED)
            work = (self._solution.upload(files, mode=inside), known)
        else:
            work = (self._judge.upload(files, mode=mode), self._solution.upload(named, mode=_CLOSED))
        await asyncio.gather(*work)

    async def download(self, paths: Sequence[str], *, max_bytes: int = 16 << 20) -> dict[str, bytes]:
        return await self._judge.download(paths, max_bytes=max_bytes)

    async def tree(
        self, paths: Sequence[str], *, max_bytes: int, known: Mapping[str, str] | None = None
    ) -> dict[str, Entry]:
        return await self._judge.tree(paths, max_bytes=max_bytes, known=known)

    async def stop(self) -> None:
        await asyncio.gather(self._judge.stop(), self._solution.stop())


class PairedSandbox(_Pair[BoxSandbox]):
    """Implements ``Sandbox`` with two boxes that were started with a socket between them."""

    async def run_tests(self, runner: str, *, timeout_sec: float, **arguments: Any) -> dict[str, Any]:
        await self._solution.serve_partner()
        return await self._judge.run_tests(runner, timeout_sec=timeout_sec, **arguments)


class PairedRemoteSandbox(_Pair[RemoteSandbox]):
    """Implements ``Sandbox`` with two boxes of one network that end together, when the one that judges does."""

    async def run_tests(self, runner: str, *, timeout_sec: float, **arguments: Any) -> dict[str, Any]:
        name = secrets.token_hex(16)
        serving = asyncio.ensure_future(self._solution.serve_partner(name, timeout_sec=timeout_sec + _MEET_SEC))
        try:
            return await self._judge.run_tests(runner, timeout_sec=timeout_sec, partner=name, **arguments)
        finally:
            await asyncio.wait({serving}, timeout=_HANG_UP_SEC)  # it ends when the other side has hung up
            serving.cancel()
            for ended in await asyncio.gather(serving, return_exceptions=True):
                if isinstance(ended, Exception):
                    log.info("sandbox %s: the box of the code under test: %s", self.name, ended)

    async def stop(self) -> None:
        await self._judge.stop()
