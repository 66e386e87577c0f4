"""Sandboxes that are not: plain processes in a private copy of the work directory, for machines that cannot isolate.

Names inside (``/app``, ``/opt/liverl``, ``/tmp``) are mapped to the private folder wherever the host passes them: in
arguments, variables, working directories and transfers. A program that spells such a name out itself does not find it;
it asks ``LIVERL_WORKDIR`` and ``LIVERL_MOUNT``.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from runtime.addresses import web_address
from runtime.errors import Termination, TrialError
from runtime.sandboxes import bwrap, images
from runtime.sandboxes.base import Capabilities, SandboxRequest
from runtime.sandboxes.box import BoxSandbox, Paths, check_lower
from runtime.sandboxes.channel import greet
from runtime.sandboxes.guest import isolate
from runtime.sandboxes.programs import PROGRAMS
from runtime.sandboxes.state import OWNER_VARIABLE, OwnerState
from runtime.sandboxes.zygote import START_SEC, kill, launch

STOP_SEC = 3.0
PRIVATE = ("/tmp", "/root", "/logs", "/tests", "/solution")


class PrivatePaths(Paths):
    """Maps prefixes, the longest first; values may be lists with colons, as in ``PATH``."""

    def __init__(self, mapping: dict[str, Path]) -> None:
        self._pairs = sorted(((name, str(path)) for name, path in mapping.items()), key=lambda pair: -len(pair[0]))

    def inside(self, text: str) -> str:
        return ":".join(self._replace(part, 0, 1) for part in text.split(":"))

    def outside(self, text: str) -> str:
        return self._replace(text, 1, 0)

    def _replace(self, text: str, old: int, new: int) -> str:
        for pair in self._pairs:
            if text == pair[old] or text.startswith(pair[old] + "/"):
                return pair[new] + text[len(pair[old]) :]
        return text


class ProcessProvider:
    """Implements ``SandboxProvider`` without isolation of any kind."""

    def __init__(self, *, state: Path) -> None:
        self._state = OwnerState(state.resolve())
        self._running: set[BoxSandbox] = set()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            isolation="none",
            network_off=False,
            fresh_filesystem=False,
            memory_limit=False,
            cpu_limit=False,
            made_by="process",
        )

    @property
    def counts(self) -> Mapping[str, float]:
        return {}

    async def start(self, request: SandboxRequest) -> BoxSandbox:
        check_lower(request)
        image = await asyncio.to_thread(images.prepare, request.image) if request.image else None
        folder = self._state.path / f"box-{secrets.token_hex(6)}"
        try:
            mapping = await asyncio.to_thread(_furnish, folder, request, image)
            box = {
                "lower": str(request.lower.resolve()),
                "workdir": str(mapping[request.workdir]),
                "python_path": [str(image)] if image is not None else [],
                "listen": None,
                "limits": {"CORE": 0},
                "isolated": False,
                "second_user": False,
            }
            program = bwrap.program("solo", json.dumps(box), folder=str(mapping[bwrap.LIVERL]))
            ours, theirs = socket.socketpair()
            with theirs:
                process = launch([_python(), "-P", "-s", "-B", *program], theirs, owner=self._state.owner)
            try:
                channel, _, _ = await greet(ours, timeout_sec=START_SEC)
            except BaseException:
                kill(process)
                raise
        except BaseException as error:
            await asyncio.to_thread(shutil.rmtree, folder, True)
            if isinstance(error, OSError):
                raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {error}") from error
            raise

        async def on_stop() -> None:
            await channel.hang_up(patience_sec=STOP_SEC)
            kill(process)
            await asyncio.to_thread(shutil.rmtree, folder, True)
            self._running.discard(sandbox)

        sandbox = BoxSandbox(
            channel,
            name=request.name,
            workdir=request.workdir,
            env=self._environment(request),
            proxy_url=web_address(*request.forward) if request.forward else None,
            on_stop=on_stop,
            oom_kills=lambda: 0,
            paths=PrivatePaths(mapping),
        )
        self._running.add(sandbox)
        return sandbox

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._running)))
        self._state.close()

    def _environment(self, request: SandboxRequest) -> dict[str, str]:
        extra = dict(request.env)
        if request.image:
            extra.setdefault("PYTHONPATH", bwrap.IMAGE)
        path = f"{Path(bwrap.PYTHON).parent}:{os.environ.get('PATH', bwrap.PATH)}"
        variables = bwrap.environment(request.workdir, {"PATH": path, **extra})
        variables.pop("LD_LIBRARY_PATH", None)
        # No namespace ends what a command leaves running: after kill -9 the next start finds it by this.
        return {**variables, OWNER_VARIABLE: self._state.owner}


def _python() -> str:
    """The interpreter without the packages of our own virtual environment."""
    base = Path(sys.base_prefix) / "bin" / "python3"
    return str(base) if base.exists() else sys.executable


def _furnish(folder: Path, request: SandboxRequest, image: Path | None) -> dict[str, Path]:
    """Make the private folder; what inside names are called on the host."""
    mapping = {name: folder / name.lstrip("/") for name in (*PRIVATE, bwrap.LIVERL, request.workdir)}
    for path in mapping.values():
        path.mkdir(parents=True)
    # By a name inside: the host's own may lie in a folder that is private here, as /root is.
    programs = folder / bwrap.PYTHON.lstrip("/")
    programs.parent.mkdir(parents=True)
    for name in ("python", "python3"):
        programs.with_name(name).symlink_to(_python())
    mapping[str(Path(bwrap.PYTHON).parent)] = programs.parent
    for name in isolate.LOGS:
        (folder / name.lstrip("/")).mkdir()
    for name, program in PROGRAMS.items():
        (mapping[bwrap.LIVERL] / name).symlink_to(program)
    for mount in request.mounts:
        target = folder / mount.target.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(mount.source.resolve())
        mapping[mount.target] = target
    if image is not None:
        mapping[bwrap.IMAGE] = image
    return mapping
