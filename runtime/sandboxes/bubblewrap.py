"""Sandboxes by bubblewrap: fresh namespaces and a fresh overlay per box, and no network but a forwarder.

A box's files live in memory inside its own mount namespace, so the death of its first process removes every trace.
Where the machine cannot nest namespaces, each box gets a bubblewrap of its own instead (slower, files copied).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.errors import MachineError, Termination, TrialError
from runtime.oci.store import ImageStore
from runtime.oci.types import Image
from runtime.sandboxes import bwrap, images, userns
from runtime.sandboxes.ahead import FetchAhead, Pace, Wanted
from runtime.sandboxes.base import Capabilities, Sandbox, SandboxRequest
from runtime.sandboxes.box import BoxSandbox, check_lower
from runtime.sandboxes.cgroups import Group, GroupPool
from runtime.sandboxes.channel import Channel, greet
from runtime.sandboxes.compiled import Source
from runtime.sandboxes.forwarder import Forwarder
from runtime.sandboxes.guest import isolate, seccomp
from runtime.sandboxes.guest_python import guest_python
from runtime.sandboxes.pair import PairedSandbox
from runtime.sandboxes.state import OwnerState
from runtime.sandboxes.zygote import START_SEC, Zygote, kill, launch, start_zygote, tail

log = logging.getLogger(__name__)

_PRELOADED = (
    *("argparse", "bisect", "collections.abc", "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal"),
    *("enum", "fractions", "functools", "hashlib", "heapq", "http.client", "io", "itertools", "json", "math"),
    *("operator", "random", "re", "socket", "string", "struct", "subprocess", "textwrap", "traceback", "typing"),
)
"""Standard modules that every box has imported already: the same for all, so that they tell nothing of other tasks."""


class StoreShelf:
    """Implements ``Shelf`` with the machine's store."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    @property
    def busy(self) -> bool:
        return self._store.busy

    def has(self, image: Wanted) -> bool:
        return self._store.image(image.digest) is not None

    def fetch(self, image: Wanted, *, sooner: Sequence[str], pace: Pace) -> bool:
        return self._store.ahead(image.reference, sooner=sooner, pace=pace)


class BubblewrapProvider:
    """Implements ``SandboxProvider``. nested: make boxes with a fork server (None: find out). store: where the layers
    of tasks' images are; ahead: who fetches them there before boxes want them. second_user: False: have none even where
    this machine gives one."""

    def __init__(
        self,
        *,
        state: Path,
        nested: bool | None = None,
        store: ImageStore | None = None,
        ahead: FetchAhead | None = None,
        second_user: bool = True,
    ) -> None:
        self._state = OwnerState(state)
        self._groups = GroupPool(self._state)
        self._nested = nested
        self._tried: bool | None = None if second_user else False
        self._zygotes: dict[tuple[str | None, bool], Zygote] = {}
        self._store = store
        self._ahead = ahead
        self._lock = asyncio.Lock()
        self._running: set[BoxSandbox] = set()
        self._copied: dict[Path, bool] = {}

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            isolation="bubblewrap",
            network_off=True,
            fresh_filesystem=True,
            memory_limit=self._groups.memory,
            cpu_limit=False,
            defences=(
                "user_namespace",
                "no_capabilities",
                "no_new_privileges",
                *(("seccomp",) if seccomp.supported() else ()),
                *(("process_limit",) if self._groups.pids or os.getuid() != 0 else ()),
            ),
            task_images=self._nested is not False,
            made_by="bubblewrap" if self._nested is False else "bubblewrap+zygote",
            second_user=self._tried is not False
            and userns.spare_user() is not None
            and all(zygote.two_users for zygote in self._zygotes.values()),
            second_box=True,
        )

    @property
    def counts(self) -> Mapping[str, float]:
        """Of tasks' images, since the start: boxes that found theirs here, that had it fetched, what that took, and
        images fetched ahead."""
        found = self._store.counts if self._store is not None else None
        if found is None or not (found.hits or found.misses or found.ahead):
            return {}
        return {
            "image_hits": found.hits,
            "image_misses": found.misses,
            "image_mib": found.bytes / (1 << 20),
            "image_fetch_sec": found.seconds,
            "images_evicted": found.evicted,
            "images_ahead": found.ahead,
        }

    async def start(self, request: SandboxRequest) -> Sandbox:
        if not request.second_user:
            return await self._one(request)
        if self._tried is None:  # what a machine has delegated it may still not let us map
            self._tried = await asyncio.to_thread(_two_users)
        if self._tried and self.capabilities.second_user:
            return await self._one(request)
        return await self._pair(replace(request, second_user=False))

    async def _pair(self, request: SandboxRequest) -> PairedSandbox:
        """Two boxes with a socket between them. Raises as ``start``."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            made = await asyncio.gather(
                *(self._one(request, partner=end.fileno()) for end in (ours, theirs)), return_exceptions=True
            )
        boxes = [one for one in made if isinstance(one, BoxSandbox)]
        if len(boxes) == 2:
            return PairedSandbox(*boxes)
        await asyncio.gather(*(box.stop() for box in boxes))
        raise next(one for one in made if isinstance(one, BaseException))

    async def _one(self, request: SandboxRequest, *, partner: int | None = None) -> BoxSandbox:
        """partner: the box's end of a socket; it stays the caller's."""
        check_lower(request, images=True)
        if request.root is not None and self._ahead is not None:
            self._ahead.start()
        if request.lower not in self._copied:
            self._copied[request.lower] = await asyncio.to_thread(_must_be_copied, request.lower)
        image = await asyncio.to_thread(images.prepare, request.image) if request.image else None
        gone: Callable[[], Awaitable[bool]] | None = None
        if self._nested is None:
            await self._find_out(request)
        if self._nested:
            zygote = await self._zygote(request.image, image, bare=request.root is not None)
            gone = functools.partial(_gone, zygote)
            order = self._order(request)
            if request.root is not None:
                order |= await asyncio.to_thread(self._hold, request.root)
                order["mounts"] += [[str(image), bwrap.IMAGE]] if image is not None else []
            try:
                channel, _, descriptors = await zygote.box(order, _sources(request), partner=partner)
            except BaseException:
                self._release(request)
                raise
            cleanup = None
        elif request.root is not None:
            why = "this machine makes no namespaces within namespaces, which boxes of a task's own image need"
            raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {why}")
        else:
            channel, descriptors, cleanup = await self._solo(request, image, partner)
        return await self._sandbox(request, channel, descriptors, cleanup, gone)

    async def close(self) -> None:
        if self._ahead is not None:
            await asyncio.to_thread(self._ahead.close)
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._running)))
        for zygote in self._zygotes.values():
            zygote.close()
        self._zygotes.clear()
        if self._store is not None:
            self._store.close()
        self._groups.close()
        self._state.close()

    async def _find_out(self, request: SandboxRequest) -> None:
        try:
            zygote = await self._zygote(None, None)
            order = self._order(request) | {"mounts": [], "listen": None, "second_user": False}
            channel, _, _ = await zygote.box(order)
            await channel.kill()
        except TrialError as error:
            log.warning("no nested namespaces on this machine (%s): every sandbox starts its own bubblewrap", error)
            self._nested = False
        else:
            self._nested = True

    def _hold(self, root: Image) -> dict[str, Any]:
        """What the fork server is told of an image, which stays from now on. Raises ``TrialError`` where it is not to
        be had any more."""
        self._store = self._store or ImageStore()
        try:
            self._store.hold(root)
        except MachineError as error:
            raise TrialError(Termination.ENV_SETUP_FAILED, str(error), host_fault=True) from error
        return {"root": {"store": str(self._store.root / "layers"), "layers": list(root.folders)}}

    def _release(self, request: SandboxRequest) -> None:
        if request.root is not None and self._store is not None:
            self._store.release(request.root)

    async def _zygote(self, name: str | None, image: Path | None, *, bare: bool = False) -> Zygote:
        python = await asyncio.to_thread(guest_python) if bare else None
        async with self._lock:
            zygote = self._zygotes.get((name, bare))
            if zygote is None or not zygote.alive:
                if zygote is not None:
                    zygote.close()
                runner = "testkit.mini" if image is None else "testkit.pytest_runner"
                preload = [*_PRELOADED, runner, "testkit.solution"]
                zygote = await start_zygote(owner=self._state.owner, image=image, preload=preload, python=python)
                self._zygotes[name, bare] = zygote
            return zygote

    def _order(self, request: SandboxRequest) -> dict[str, Any]:
        return {
            "lower": str(request.lower.resolve()),
            "workdir": request.workdir,
            "mounts": [[str(mount.source.resolve()), mount.target] for mount in request.mounts],
            "size_mib": max(16, request.memory_mib // 2),
            "limits": self._limits(request),
            "listen": request.forward_port if request.forward else None,
            "copy": self._copied[request.lower],
            "second_user": request.second_user,
        }

    def _limits(self, request: SandboxRequest) -> dict[str, int]:
        limits = {"CORE": 0}
        if not self._groups.memory and request.limit_address_space:
            limits["AS"] = request.memory_mib << 20
        if not self._groups.pids:
            limits["NPROC"] = request.pids  # counted per user namespace, that is per box; the host's root is exempt
        return limits

    async def _solo(
        self, request: SandboxRequest, image: Path | None, partner: int | None
    ) -> tuple[Channel, list[int], Any]:
        order = self._order(request)
        shown = [word for name in isolate.MEMORY_FOLDERS for word in ("--tmpfs", name)]
        shown += ["--perms", "1777", "--tmpfs", "/tmp"]
        shown += ["--ro-bind", order["lower"], "/.lower", "--tmpfs", request.workdir]
        for source, target in order["mounts"]:
            shown += ["--ro-bind", source, target]
        if image is not None:
            shown += ["--ro-bind", str(image), bwrap.IMAGE]
        box = {
            "lower": "/.lower",
            "workdir": request.workdir,
            "python_path": [bwrap.IMAGE] if image is not None else [],
            "listen": order["listen"],
            "limits": order["limits"],
            "isolated": True,
            "second_user": request.second_user,
            "partner": partner,
        }
        users = await asyncio.to_thread(userns.two_users) if request.second_user else None
        if users is not None:  # for the first moment, until the supervisor has become two users
            shown += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        arguments = bwrap.command(shown, bwrap.program("solo", json.dumps(box)), users=users)
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as opened, theirs, tempfile.TemporaryFile() as errors:
            also = () if users is None else (users,)
            for fd in also:
                opened.callback(os.close, fd)
            also = also if partner is None else (*also, partner)
            process = launch(arguments, theirs, owner=self._state.owner, errors=errors, also=also)
            theirs.close()
            try:
                channel, _, descriptors = await greet(ours, timeout_sec=START_SEC)
            except TrialError as error:
                kill(process)
                raise TrialError(error.termination, f"{error}: {tail(errors)}") from error
            except BaseException:
                kill(process)
                raise
        return channel, descriptors, lambda: kill(process)

    async def _sandbox(
        self,
        request: SandboxRequest,
        channel: Channel,
        descriptors: list[int],
        cleanup: Any,
        gone: Callable[[], Awaitable[bool]] | None,
    ) -> BoxSandbox:
        forwarder: Forwarder | None = None
        group: Group | None = None

        async def on_stop() -> None:
            if forwarder is not None:
                forwarder.close()
            await channel.kill()
            if cleanup is not None:
                cleanup()
            if group is not None:
                self._groups.give_back(group)
            self._release(request)
            self._running.discard(sandbox)

        try:
            group = await self._groups.admit(channel.pid, memory_mib=request.memory_mib, pids=request.pids)
            if descriptors and request.forward is not None:
                forwarder = Forwarder(socket.socket(fileno=descriptors[0]), request.forward)
                await forwarder.start()
            sandbox = BoxSandbox(
                channel,
                name=request.name,
                workdir=request.workdir,
                env=self._environment(request),
                proxy_url=f"http://127.0.0.1:{request.forward_port}" if forwarder is not None else None,
                on_stop=on_stop,
                oom_kills=group.oom_kills if group is not None else lambda: 0,
                host_fault=gone,
            )
        except BaseException as error:
            if forwarder is not None:
                forwarder.close()
            await channel.kill()
            if group is not None:
                self._groups.give_back(group)
            self._release(request)
            with contextlib.suppress(OSError):
                if cleanup is not None:
                    cleanup()
            if isinstance(error, OSError):
                raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {error}") from error
            raise
        self._running.add(sandbox)
        return sandbox

    def _environment(self, request: SandboxRequest) -> Mapping[str, str]:
        extra = dict(request.env)
        if request.image:
            extra.setdefault("PYTHONPATH", bwrap.IMAGE)
        if request.root is not None:
            return bwrap.image_environment(request.workdir, dict(request.root.env), extra)
        return bwrap.environment(request.workdir, extra)


def _must_be_copied(folder: Path) -> bool:
    """Whether anything below belongs to another user, or is read-only. Only what is ours, and may be written, can be
    written in a box through an overlay: its root has no capability to overrule that. Git leaves its objects read-only
    and never writes them."""

    def writable(path: Path) -> bool:
        status = path.lstat()
        of_git = path.name != ".git" and ".git" in path.parts
        return status.st_uid == os.getuid() and (path.is_symlink() or bool(status.st_mode & 0o200) or of_git)

    return not all(writable(path) for path in (folder, *folder.rglob("*")))


def _two_users() -> bool:
    fd = userns.two_users()
    if fd is not None:
        os.close(fd)
    return fd is not None


async def _gone(zygote: Zygote) -> bool:
    """Whether the fork server has ended, which nothing in a box can reach: all its boxes ended with it."""
    return not zygote.alive


def _sources(request: SandboxRequest) -> list[Source]:
    """What is worth compiling once for all boxes of ``request``'s kind: the work directory and our own programs."""
    if not request.compile_once:
        return []
    sources = []
    if request.root is None or request.image is not None:  # else an image's own Python runs its files
        sources.append(Source(str(request.lower.resolve()), request.workdir, rewrite=request.image is not None))
    for mount in request.mounts:
        if mount.target.startswith(f"{bwrap.LIVERL}/"):
            sources.append(Source(str(mount.source.resolve()), mount.target, rewrite=False))
    return sources
