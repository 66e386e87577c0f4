"""A sandbox on top of nothing but "run this command with this input": what clusters and other people's boxes offer.

Commands, transfers and test runs are built from that one call, so a backend is only how the call travels, how a box is
made, and how its death is explained. It does not know any of the backends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import Termination, TrialError
from runtime.sandboxes import bwrap, images, own_image, remote_python, remote_shell
from runtime.sandboxes.base import ArtifactsRefused, ExecResult, SandboxRequest
from runtime.sandboxes.entries import Entry, Same, marked
from runtime.sandboxes.programs import PROGRAMS

log = logging.getLogger(__name__)

PART = 4 << 20
"""Bytes of a transfer that travel in one call; what is cut is sent again."""
PROXY_HOST = "LIVERL_PROXY_HOST"
"""Variable with this machine's own address, where only the launch knows it."""
ATTEMPTS = 4
TRANSFER_SEC = 120.0
_OVERHEAD = 65536


class LinkCut(Exception):
    """The connection to a living box broke before the command's end was known."""


class RemoteSandbox(ABC):
    """Implements ``Sandbox``. A backend gives ``_call`` and ``_end``.

    An exit code above 128 is reported as a signal's, as shells do: no remote interface tells the two apart.
    """

    alone = False
    """Whether the box sees no processes but its own, so that a timeout may end whatever hides whose it is."""

    def __init__(self, request: SandboxRequest, *, env: Mapping[str, str], proxy_url: str | None) -> None:
        self.name = request.name
        self.workdir = request.workdir
        if request.root is None:
            self._env = {"LIVERL_WORKDIR": request.workdir, "LIVERL_MOUNT": bwrap.LIVERL, **request.env, **env}
        else:
            self._env = {**own_image.environment(request), **env}
        if request.image:
            self._env.setdefault("PYTHONPATH", bwrap.IMAGE)
        self._packages = bool(request.image)
        # How the box is spoken to: an image of the task's own may have no shell.
        self._words: Any = remote_shell if request.root is None else remote_python
        self._proxy_url = proxy_url
        self._stopping: asyncio.Task[None] | None = None

    @property
    def proxy_url(self) -> str | None:
        return self._proxy_url

    @property
    def alive(self) -> bool:
        return True

    @abstractmethod
    async def _call(self, command: Sequence[str], stdin: bytes, *, timeout_sec: float) -> ExecResult:
        """Run ``command`` in the box. Raises ``TimeoutError``, ``LinkCut``, or ``TrialError`` when the box is gone."""

    @abstractmethod
    async def _end(self) -> None:
        """Remove the box. Called once; what it raises is logged."""

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
        mark = secrets.token_hex(8)
        script = self._words.command(argv, cwd=cwd or self.workdir, env={**self._env, **(env or {})}, mark=mark)
        try:
            result = await self._shell(script, stdin, timeout_sec=timeout_sec, max_output=max_output)
        except TimeoutError:
            await self._kill(mark)
            raise TimeoutError(f"{argv[0]} took longer than {timeout_sec:g} s") from None
        except LinkCut as error:
            # Never run again: it may have had its effects. Whatever of it still runs must not meet the next command.
            await self._kill(mark)
            raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: {argv[0]}: {error}") from error
        except asyncio.CancelledError:
            if self._stopping is None:
                await asyncio.shield(self._kill(mark))
            raise
        code = result.exit_code
        return ExecResult(128 - code if 128 < code <= 192 else code, result.stdout, result.stderr)

    async def upload(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        for path in files:
            if not path.startswith("/") or ".." in path.split("/"):
                raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: upload: {path!r}: not absolute")
        await self.upload_archive(remote_shell.pack({path: (content, mode) for path, content in files.items()}))

    async def upload_archive(self, archive: bytes, *, root: str = "/", packed: bool = False) -> None:
        """Unpack a tar archive below a folder of the box; of any size, in parts. packed: it is compressed."""
        if len(archive) <= PART and not packed:
            await self._sure(self._words.unpack_script(root), archive)
            return
        folder = f"/tmp/.liverl-up-{secrets.token_hex(6)}"
        await self._sure(self._words.folder_script(folder))
        parts = range(0, len(archive), PART)
        for number, start in enumerate(parts):
            part = archive[start : start + PART]
            await self._sure(self._words.part_script(f"{folder}/{number}", len(part)), part)
        await self._sure(self._words.join_script(folder, len(parts), root, packed=packed))

    async def download(self, paths: Sequence[str], *, max_bytes: int = 16 << 20) -> dict[str, bytes]:
        found = await self.tree(paths, max_bytes=max_bytes)
        contents = {name: marked(entry) for name, entry in found.items()}
        return {name: content for name, (kind, content) in contents.items() if kind in "fx"}

    async def tree(
        self, paths: Sequence[str], *, max_bytes: int, known: Mapping[str, str] | None = None
    ) -> dict[str, Entry]:
        file = f"/tmp/.liverl-down-{secrets.token_hex(6)}"
        told = known if self._words is remote_python else None
        asked = {} if told is None else {"gone": remote_python.GONE}
        script = self._words.pack_script(paths, file=file, max_bytes=max_bytes, first=PART, **asked)
        result = await self._sure(script, b"" if told is None else json.dumps(dict(told)).encode())
        what = f"sandbox {self.name}: download"
        try:
            size = int(result.stderr.split()[-1])
        except (ValueError, IndexError) as error:
            raise TrialError(Termination.SANDBOX_LOST, f"{what}: no size: {result.stderr[-200:]!r}") from error
        if not 0 <= size <= remote_shell.archive_limit(max_bytes):
            raise ArtifactsRefused(f"{what}: more than {max_bytes} bytes")
        data = bytearray(result.stdout)
        while len(data) < size:
            rest = min(PART, size - len(data))
            part = (await self._sure(self._words.rest_script(file, len(data), rest))).stdout
            if len(part) != rest:
                raise TrialError(Termination.SANDBOX_LOST, f"{what}: {len(part)} bytes instead of {rest}")
            data += part
        if size > PART:
            await self._sure(self._words.remove_script(file))
        found = await asyncio.to_thread(remote_shell.unpack, bytes(data), max_bytes=max_bytes, what=what)
        if told is None:
            return found
        try:
            gone = set(json.loads(found.pop(remote_python.GONE)))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise TrialError(Termination.SANDBOX_LOST, f"{what}: nothing says what is gone") from error
        return {name: Same() for name in told if name not in gone} | found

    async def furnish(self, request: SandboxRequest) -> None:
        """Put the pristine work directory, mounts, packages and LiveRL's own programs in: there is no host to share
        them from. Into a box of a task's own image the latter came before it started (``receive``)."""
        folders = ["/logs/agent", "/logs/verifier", "/logs/artifacts", request.workdir]
        if request.root is not None:
            await self._sure(remote_python.folders_script(folders))
            return
        trees = [(request.lower, request.workdir), *((mount.source, mount.target) for mount in request.mounts)]
        if request.image:
            trees.append((await asyncio.to_thread(images.prepare, request.image), bwrap.IMAGE))
        programs = {f"{bwrap.LIVERL}/{name}": folder for name, folder in PROGRAMS.items()}
        shown = (await self._sure(remote_shell.folders_script(folders, mounts=programs))).stdout.decode().split()
        # A box of ours behind another's interface (our plug-in for Harbor) shows them already, read-only.
        trees += [(folder, target) for target, folder in programs.items() if target not in shown]
        await self.upload_archive(await asyncio.to_thread(remote_shell.pack_trees, trees))

    async def receive(self, request: SandboxRequest, *, changed: bool) -> None:
        """Of a receiver (``own_image.py``): take in what the box of ``request`` is to find, and end."""
        assert self._words is remote_shell
        python, rest = await asyncio.to_thread(
            lambda: (own_image.python_archive().read_bytes(), own_image.brought(request, changed=changed))
        )
        await self.upload_archive(python, root=own_image.BROUGHT, packed=True)
        await self.upload_archive(rest, root=own_image.BROUGHT)
        await self._sure(f": >{own_image.COMPLETE}\n")

    async def erase(self, paths: Sequence[str]) -> None:
        """Take files and folders of a task's own image out of its box, before anything untrusted runs there."""
        if paths:
            await self._sure(remote_python.erase_script(paths))

    async def run_tests(
        self, runner: str, *, timeout_sec: float, partner: str | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """A report of the test kit (``testkit/report.py``), which ``furnish`` brought. partner: the name by which the
        box of the code under test finds this one. Raises ``TrialError``."""
        seal = secrets.token_hex(8)
        order = {
            "runner": runner,
            "arguments": {"root": self.workdir, "timeout": timeout_sec, **arguments},
            "python_path": [bwrap.IMAGE] if self._packages else [],
            "seal": seal,
            "partner": partner,
        }
        argv = ["python3", "-s", "-B", "-c", remote_shell.TESTS.format(folder=bwrap.LIVERL)]
        result = await self.exec(
            argv, cwd="/", stdin=json.dumps(order).encode(), timeout_sec=timeout_sec + 15, max_output=32 << 20
        )
        last = result.stdout.rstrip(b"\n").rpartition(b"\n")[2]
        try:
            if not last.startswith(seal.encode()):
                said = result.stderr.decode(errors="replace").strip()[-300:]
                raise ValueError(f"the test run ended with {result.exit_code}: {said}")
            report = json.loads(last[len(seal) :])
            if not isinstance(report, dict):
                raise ValueError("the report is no table")
        except ValueError as error:
            raise TrialError(Termination.VERIFIER_CRASHED, f"sandbox {self.name}: {error}") from error
        return report

    async def serve_partner(self, name: str, *, timeout_sec: float) -> None:
        """Run the code under test for a test run of the box that waits under ``name`` (``pair.py``), until its end."""
        order = {"partner": name, "python_path": [bwrap.IMAGE] if self._packages else []}
        argv = ["python3", "-s", "-B", "-c", remote_shell.PARTNER.format(folder=bwrap.LIVERL)]
        await self.exec(argv, cwd="/", stdin=json.dumps(order).encode(), timeout_sec=timeout_sec)

    async def stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        try:
            await self._end()
        except Exception as error:  # ``stop`` never raises; time to live and the reaper are the backstops
            log.warning("sandbox %s could not be removed: %s", self.name, error)

    async def _kill(self, mark: str) -> None:
        try:
            await self._call(*self._words.kill(mark, alone=self.alone), timeout_sec=15)
        except (TimeoutError, LinkCut, TrialError) as error:
            log.warning("sandbox %s: a command may still be running: %s", self.name, error)

    async def _shell(self, script: str, stdin: bytes = b"", *, timeout_sec: float, max_output: int) -> ExecResult:
        command, data = self._words.boot(script, stdin, max_output=max_output)
        return await self._call(command, data, timeout_sec=timeout_sec)

    async def _sure(self, script: str, stdin: bytes = b"") -> ExecResult:
        """Run a script of ours that may be repeated, until its end is known. Raises ``TrialError``."""
        for attempt in range(ATTEMPTS):
            try:
                result = await self._shell(script, stdin, timeout_sec=TRANSFER_SEC, max_output=PART + _OVERHEAD)
            except (LinkCut, TimeoutError) as error:
                why = str(error) or "no answer in time"
                await asyncio.sleep(0.1 * 2**attempt)
                continue
            if result.exit_code == 0:
                return result
            why = f"exit code {result.exit_code}: {result.stderr.decode(errors='replace').strip()[-300:]}"
            if result.exit_code != 125:  # 125: the input was cut on its way
                break
        raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: transfer: {why}")
