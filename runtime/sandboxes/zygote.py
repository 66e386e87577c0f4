"""Starts bubblewrap once, with a fork server in it, and has that make boxes.

A box is a child of the fork server with its own user, pid, network, mount, ipc and uts namespaces; see ``guest/``. It
does not know what boxes are used for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from runtime.errors import Termination, TrialError
from runtime.sandboxes import bwrap, userns
from runtime.sandboxes.channel import Channel, greet, wait_readable
from runtime.sandboxes.compiled import CompiledFiles, Source
from runtime.sandboxes.guest import wire
from runtime.sandboxes.state import OWNER_VARIABLE

START_SEC = 30.0

log = logging.getLogger(__name__)


class Zygote:
    """One bubblewrap with a fork server. Made by ``start_zygote``; ``close`` ends it and all its boxes."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, *, two_users: bool) -> None:
        self._process = process
        self._control = control
        self._compiled = CompiledFiles()
        self.two_users = two_users

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def box(
        self, order: Mapping[str, Any], sources: Sequence[Source] = (), *, partner: int | None = None
    ) -> tuple[Channel, dict[str, Any], list[int]]:
        """A fresh box: its channel, its greeting, descriptors. sources: Python files that it will hold, compiled once
        for all boxes with the same. partner: a socket that it shares with another box. Raises
        ``TrialError(ENV_SETUP_FAILED)``.
        """
        with contextlib.ExitStack() as opened:
            descriptors = []
            for source in sources:
                fd = await self._compiled.get(source, self._compile)
                if fd is not None:
                    opened.callback(os.close, fd)
                    descriptors.append(fd)
            if partner is not None:
                descriptors.append(partner)
            order = {**order, "partner": partner is not None}
            return await greet(self._order(order, descriptors), timeout_sec=START_SEC)

    def close(self) -> None:
        """Idempotent; quick, so that it may run where no event loop does."""
        self._control.close()
        self._compiled.close()
        kill(self._process)

    async def _compile(self, source: Source, target: int) -> None:
        """Have ``source`` compiled into ``target``. Raises ``TrialError``, ``OSError``."""
        order = {"compile": source.folder, "workdir": source.workdir, "rewrite": source.rewrite}
        with self._order(order, [target]) as connection:
            connection.setblocking(False)
            async with asyncio.timeout(START_SEC):
                await wait_readable(connection.fileno())
            if not any(header.get("ready") for header, _ in wire.Buffer().feed(connection.recv(1 << 16))):
                raise OSError(f"{source.folder} could not be compiled")

    def _order(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> socket.socket:
        """Send an order to whichever process is forked for it; the way to that process."""
        packet = json.dumps(order).encode()
        if len(packet) >= wire.MAX_ORDER:
            raise TrialError(Termination.ENV_SETUP_FAILED, f"the order of {len(packet)} bytes is too long")
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [packet], [theirs.fileno(), *descriptors])
            except OSError as error:
                ours.close()
                raise TrialError(Termination.ENV_SETUP_FAILED, f"the fork server is gone: {error}") from error
        return ours


async def start_zygote(
    *,
    owner: str,
    image: Path | None,
    preload: Sequence[str] = (),
    extra: Sequence[str] = (),
    python: Path | None = None,
) -> Zygote:
    """image: folder of packages, shown at ``/opt/image`` and on Python's path. preload: modules to import once for all
    boxes; they must not run code of a repository. python: for boxes of other images, one that needs nothing of the
    host's system. Boxes have a second user where the machine lets us map one. Raises ``TrialError(ENV_SETUP_FAILED)``.
    """
    users = await asyncio.to_thread(userns.two_users)
    if users is not None:
        try:
            return await _start(owner=owner, image=image, preload=preload, extra=extra, users=users, python=python)
        except TrialError as error:
            log.warning("no second user in sandboxes: %s", error)
        finally:
            os.close(users)
    return await _start(owner=owner, image=image, preload=preload, extra=extra, users=None, python=python)


async def _start(
    *,
    owner: str,
    image: Path | None,
    preload: Sequence[str],
    extra: Sequence[str],
    users: int | None,
    python: Path | None,
) -> Zygote:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    shown = ["--ro-bind", "/", "/.host", *extra]
    if image is not None:
        shown += ["--ro-bind", str(image), bwrap.IMAGE]
    # CAP_SYS_ADMIN and the rest hold within bubblewrap's own user namespace; boxes drop them before anything runs.
    shown += ["--cap-add", "ALL"]
    setup = {"python_path": [bwrap.IMAGE] if image is not None else [], "preload": list(preload)}
    program = bwrap.program("zygote", json.dumps(setup))
    arguments = bwrap.command(shown, program, writable_root=True, users=users, python=python)
    with tempfile.TemporaryFile() as errors, theirs:
        process = launch(arguments, theirs, owner=owner, errors=errors, also=() if users is None else (users,))
        try:
            ours.setblocking(False)
            await asyncio.wait_for(wait_readable(ours.fileno()), START_SEC)
            if ours.recv(16) != b"ready":
                raise ConnectionError("it ended at once")
            ours.setblocking(True)
        except (OSError, TimeoutError) as error:
            ours.close()
            kill(process)
            said = tail(errors)
            raise TrialError(
                Termination.ENV_SETUP_FAILED, f"bubblewrap did not start: {said or repr(error)}"
            ) from error
        except BaseException:
            ours.close()
            kill(process)
            raise
    return Zygote(process, ours, two_users=users is not None)


def launch(
    arguments: Sequence[str],
    control: socket.socket,
    *,
    owner: str,
    errors: Any = subprocess.DEVNULL,
    also: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a guest program with ``control``, whose descriptor's number becomes its last argument, and the descriptors
    ``also``.

    A session of its own, so that Ctrl-C in the terminal reaches us alone and we can clean up.
    """
    return subprocess.Popen(
        [*arguments, str(control.fileno())],
        pass_fds=[control.fileno(), *also],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
        cwd="/",
        env={"PATH": os.environ.get("PATH", bwrap.PATH), OWNER_VARIABLE: owner},
    )


def tail(errors: IO[bytes]) -> str:
    """The last of what a guest program wrote to its standard error."""
    errors.seek(0)
    return errors.read()[-2000:].decode(errors="replace").strip()


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
