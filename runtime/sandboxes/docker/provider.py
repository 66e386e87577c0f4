"""Sandboxes as containers: no network, no capabilities, a read-only root, limits of memory, processes and disk.

The supervisor inside (``guest/solo.py``) is a box's like any other; ``links.py`` says how it and the host find each
other, ``engine.py`` how the engine is asked. The engine may run on another machine: nothing is shared with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.config import Images
from runtime.errors import Termination, TrialError
from runtime.sandboxes import bwrap, own_image
from runtime.sandboxes.ahead import Announced, FetchAhead
from runtime.sandboxes.base import Capabilities, SandboxRequest
from runtime.sandboxes.box import BoxSandbox, check_lower
from runtime.sandboxes.channel import Channel
from runtime.sandboxes.docker import context
from runtime.sandboxes.docker.connection import Connection, import_sdk
from runtime.sandboxes.docker.engine import TASK_IMAGES, Engine
from runtime.sandboxes.docker.links import AttachLink, Link, SocketLink
from runtime.sandboxes.docker.shelf import EngineShelf
from runtime.sandboxes.guest import isolate
from runtime.sandboxes.state import OwnerState

log = logging.getLogger(__name__)

LABEL = "liverl.owner"
_FOLDERS = ("/logs", "/tests", "/solution")
"""Where Harbor's scripts expect folders that are empty at first."""


class DockerProvider:
    """Implements ``SandboxProvider``. base: image with Python 3.11 or later as ``/usr/bin/python3``, pulled if the
    engine lacks it. attached: control boxes over the engine's connection (None: if it is on another machine). images:
    where those of tasks come from; announced: which will be wanted.

    Raises ``MachineError`` when the engine does not answer, or the base image is not to be had.
    """

    capabilities = Capabilities(
        isolation="docker",
        network_off=True,
        fresh_filesystem=True,
        memory_limit=True,
        cpu_limit=False,
        defences=("no_capabilities", "no_new_privileges", "seccomp", "process_limit"),
        second_user=True,
        task_images=True,
    )

    def __init__(
        self,
        connection: Connection,
        *,
        state: Path,
        base: str,
        attached: bool | None = None,
        images: Images | None = None,
        announced: Callable[[], Announced] = Announced,
    ) -> None:
        self._connection = connection
        self._attached = not connection.local if attached is None else attached
        settings = images or Images()
        self._engine = Engine(connection, import_sdk(), base=base, mirrors=settings.mirrors)
        budget = settings.disk_gib << 30 if settings.disk_gib is not None else None
        shelf = EngineShelf(self._engine, mirrors=settings.mirrors, budget=budget)
        self._ahead = FetchAhead(shelf, announced, images=settings.ahead)
        self._state = OwnerState(state)
        self._running: set[BoxSandbox] = set()
        self._removing: set[asyncio.Task[None]] = set()
        for owner in self._state.removed:
            self._remove_owned(owner)

    @property
    def counts(self) -> Mapping[str, float]:
        """Of images: built, found in the engine, asked for again; of tasks' images alone: found, pulled, how long that
        took, pulled ahead."""
        counts = self._engine.counts
        asked = any(value for name, value in counts.items() if name in TASK_IMAGES)
        return {name: value for name, value in counts.items() if asked or name not in TASK_IMAGES}

    async def start(self, request: SandboxRequest) -> BoxSandbox:
        check_lower(request, images=True)
        if request.root is not None:
            self._ahead.start()
        name = f"liverl-{self._state.owner}-{secrets.token_hex(4)}"
        errors = self._engine.sdk.errors
        link: Link | None = None
        container: Any = None
        channel: Channel | None = None
        try:
            link = AttachLink(self._connection) if self._attached else SocketLink(self._state.path / name)
            container = await self._create(request, name, link)
            channel = await link.connect(container.id, lambda: self._engine.call(container.start))
            if request.forward is not None:
                await link.forward(request.forward)
            return self._sandbox(request, container, channel, link)
        except BaseException as error:
            if channel is not None:
                await channel.kill()
            if link is not None:
                link.close()
            await asyncio.shield(self._forsake(container, name))
            if isinstance(error, OSError | TimeoutError | errors.DockerException):
                raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {_words(error)}") from error
            raise

    async def close(self) -> None:
        await asyncio.to_thread(self._ahead.close)
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._running)))
        await asyncio.gather(*self._removing, return_exceptions=True)
        removed = await asyncio.to_thread(self._remove_owned, self._state.owner)
        await self._engine.close()
        self._state.close(forget=removed)

    async def _create(self, request: SandboxRequest, name: str, link: Link) -> Any:
        for again in (True, False):
            image = await self._engine.image(request)
            make = functools.partial(self._container, request, image, name, link)
            try:
                return await self._engine.call(make)
            except self._engine.sdk.errors.ImageNotFound:
                if not again:
                    raise
                self._engine.forget(request)  # somebody has cleaned up the engine
        raise AssertionError

    def _container(self, request: SandboxRequest, image: str, name: str, link: Link) -> Any:
        size = f"size={max(16, request.memory_mib // 2)}m,exec"
        box = {
            "lower": context.LOWER,
            "workdir": request.workdir,
            "python_path": [bwrap.IMAGE] if request.image else [],
            "listen": request.forward_port if request.forward else None,
            "limits": {"CORE": 0},
            "isolated": True,
            "second_user": request.second_user,
        }
        program = bwrap.program("solo", json.dumps(box))
        own = request.root is not None
        python = bwrap.PYTHON if own else "/usr/bin/python3"
        # An image of the task's own is all to be written, as it would be in Harbor's container.
        memory = _FOLDERS if own else ("/var/tmp", *isolate.MEMORY_FOLDERS)
        if own:  # volumes would bring what the image has there into the work directory, which is ours
            memory = (*memory, *(one for one in self._engine.volumes(image) if one.startswith(f"{request.workdir}/")))
        folders, files = own_image.hidden(request)
        # As engines mask files of their own.
        masks = [self._engine.sdk.types.Mount(path, "/dev/null", type="bind", read_only=True) for path in files]
        try:
            return self._engine.client.containers.create(
                image,
                [python, "-P", "-s", "-B", *program, link.argument],
                name=name,
                labels={LABEL: self._state.owner},
                environment={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
                network_mode="none",
                cap_drop=["ALL"],
                # For the first moment, until the supervisor has become two users and has given up both.
                cap_add=["SETUID", "SETGID"] if request.second_user else [],
                security_opt=["no-new-privileges"],
                read_only=not own,
                tmpfs=dict.fromkeys((request.workdir, "/tmp", *memory), size) | dict.fromkeys(folders, "ro,size=4k"),
                mounts=masks,
                mem_limit=f"{request.memory_mib}m",
                memswap_limit=f"{request.memory_mib}m",
                pids_limit=request.pids,
                init=False,  # the supervisor is process 1: it reaps orphans, and nothing inside can kill it
                log_config=self._engine.sdk.types.LogConfig(type="none"),
                **({"user": "0:0", "entrypoint": [], "healthcheck": {"test": ["NONE"]}} if own else {}),
                **link.options,
            )
        except self._engine.sdk.errors.APIError as error:
            if error.status_code != 409:
                raise
            return self._engine.client.containers.get(name)  # the answer to an earlier attempt was lost

    def _sandbox(self, request: SandboxRequest, container: Any, channel: Channel, link: Link) -> BoxSandbox:
        async def on_stop() -> None:
            link.close()
            await channel.kill()
            removal = asyncio.ensure_future(self._removal(container))
            self._removing.add(removal)
            removal.add_done_callback(self._removing.discard)
            self._running.discard(sandbox)
            if self._attached:
                await removal  # nothing else is known to have ended what runs inside

        sandbox = BoxSandbox(
            channel,
            name=request.name,
            workdir=request.workdir,
            env=self._environment(request),
            proxy_url=f"http://127.0.0.1:{request.forward_port}" if request.forward is not None else None,
            on_stop=on_stop,
            out_of_memory=lambda: self._oom_killed(container),
            host_fault=lambda: self._ended_from_outside(container),
        )
        self._running.add(sandbox)
        return sandbox

    def _environment(self, request: SandboxRequest) -> Mapping[str, str]:
        extra = dict(request.env)
        if request.image:
            extra.setdefault("PYTHONPATH", bwrap.IMAGE)
        if request.root is not None:
            return bwrap.image_environment(request.workdir, dict(request.root.env), extra)
        variables = bwrap.environment(request.workdir, extra)
        if "LD_LIBRARY_PATH" not in extra:
            variables.pop("LD_LIBRARY_PATH", None)  # of this machine's Python, which is not the container's
        return variables

    async def _oom_killed(self, container: Any) -> bool:
        """Whether the kernel killed the box for memory; False where the engine does not say."""

        def ask() -> bool:
            self._connection.knock()
            container.reload()
            return bool(container.attrs["State"]["OOMKilled"])

        with contextlib.suppress(self._engine.sdk.errors.DockerException, OSError, TimeoutError):
            return await asyncio.wait_for(asyncio.to_thread(ask), 10)
        return False

    async def _ended_from_outside(self, container: Any) -> bool:
        """Whether the engine is away, or somebody removed or killed the container: nothing inside can do that, for
        signals from within do not reach its first process.
        """
        errors = self._engine.sdk.errors

        def ask() -> bool:
            self._connection.knock()
            container.reload()
            state = container.attrs["State"]
            return state["ExitCode"] in (137, 143) and not state["OOMKilled"]

        try:
            return await asyncio.wait_for(asyncio.to_thread(ask), 10)
        except (errors.DockerException, OSError, TimeoutError):
            return True

    async def _forsake(self, container: Any, name: str) -> None:
        """Remove what a failed start left. A creation whose answer was lost may have had its effect all the same."""
        if container is None:
            with contextlib.suppress(self._engine.sdk.errors.DockerException, OSError):
                self._connection.knock()
                container = await asyncio.to_thread(self._engine.client.containers.get, name)
        if container is not None:
            await self._removal(container)

    async def _removal(self, container: Any) -> None:
        errors = self._engine.sdk.errors

        def remove() -> None:
            with contextlib.suppress(errors.NotFound):
                container.remove(force=True, v=True)

        try:
            await self._engine.call(remove)
        except (errors.DockerException, OSError) as error:
            log.warning("container %s may be left: %s", container.name, error)  # ``close`` or the next start removes it

    def _remove_owned(self, owner: str) -> bool:
        return _removed(owner, self._connection, self._engine.client, self._engine.sdk)


def remove_left(owners: Sequence[str], connection: Connection) -> None:
    """The containers of dead owners. Blocks; an engine that is away is said, and no error."""
    sdk = import_sdk()
    client = connection.client(sdk)
    try:
        for owner in owners:
            if not _removed(owner, connection, client, sdk):
                log.warning("containers with the label %s=%s may be left in the engine", LABEL, owner)
    finally:
        client.close()


def _removed(owner: str, connection: Connection, client: Any, sdk: Any) -> bool:
    """Remove its containers: whether none is left."""
    errors = sdk.errors
    wanted = {"all": True, "filters": {"label": f"{LABEL}={owner}"}}
    with contextlib.suppress(errors.DockerException, OSError):
        connection.knock()
        for container in client.containers.list(**wanted):
            with contextlib.suppress(errors.DockerException, OSError):
                container.remove(force=True, v=True)
        return not client.containers.list(**wanted)
    return False


def _words(error: BaseException) -> str:
    return str(getattr(error, "explanation", None) or error) or repr(error)
