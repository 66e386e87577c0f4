"""Sandboxes as containers: no network, no capabilities, a read-only root, limits of memory, processes and disk.

The supervisor inside (``guest/solo.py``) connects to a socket of ours, sends its process and, if asked for, a listener
of its own network namespace over it; from then on a container is a box like any other. That needs the engine on this
machine: engines elsewhere are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.environment import bwrap, images
from runtime.environment.base import Capabilities, SandboxRequest
from runtime.environment.box import BoxSandbox, check_lower
from runtime.environment.channel import Channel, greet, wait_readable
from runtime.environment.docker import context
from runtime.environment.forward import Forwarder
from runtime.environment.state import OwnerState
from runtime.errors import MachineError, Termination, TrialError

log = logging.getLogger(__name__)

START_SEC = 60.0
LABEL = "liverl.owner"
REPOSITORY = "liverl/sandbox"
CONTROL = "/opt/liverl-control"
INSTALL = "pip install 'docker>=7.1', and start an engine: apt-get install -y docker.io"


class DockerProvider:
    """Implements ``SandboxProvider``. base: image with Python 3.11 or later as ``/usr/bin/python3``; url: of the
    engine's socket (None: ``DOCKER_HOST`` or the usual one).

    Raises ``MachineError`` when the engine does not answer, is not on this machine, or the base image is missing.
    """

    capabilities = Capabilities(
        isolation="docker",
        network_off=True,
        fresh_filesystem=True,
        memory_limit=True,
        cpu_limit=False,
        defences=("no_capabilities", "no_new_privileges", "seccomp", "process_limit"),
    )

    def __init__(self, *, state: Path, base: str, url: str | None = None) -> None:
        url = url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        if not url.startswith("unix://"):
            raise MachineError(
                f"docker engine {url}: not a socket of this machine, over which alone sandboxes are controlled",
                fix="give unix:///path/of/docker.sock, or run LiveRL on the engine's machine",
            )
        self._sdk = _import_sdk()
        self._client: Any = None
        try:
            with socket.socket(socket.AF_UNIX) as probe:  # the client leaks its socket where nobody listens
                probe.connect(url.removeprefix("unix://"))
            self._client = self._sdk.DockerClient(base_url=url, timeout=START_SEC, version="auto")
            self._base = str(self._client.images.get(base).id)
        except self._sdk.errors.ImageNotFound as error:
            self._client.close()
            raise MachineError(f"docker: no image {base}", fix=f"docker pull {base}, or docker import") from error
        except (self._sdk.errors.DockerException, OSError) as error:
            if self._client is not None:
                self._client.close()
            raise MachineError(f"docker engine {url}: {error}", fix=INSTALL) from error
        self._state = OwnerState(state)
        self._running: set[BoxSandbox] = set()
        self._images: dict[Any, str] = {}
        self._lock = asyncio.Lock()
        for owner in self._state.removed:
            self._remove_owned(owner)

    @property
    def how(self) -> str:
        return "docker"

    async def start(self, request: SandboxRequest) -> BoxSandbox:
        check_lower(request)
        name = f"liverl-{self._state.owner}-{secrets.token_hex(4)}"
        folder = self._state.path / name
        container: Any = None
        channel: Channel | None = None
        try:
            image = await self._image(request)
            folder.mkdir()
            listener = _listen(folder)
            try:
                container = await asyncio.to_thread(self._run, request, image, name, folder)
                await asyncio.wait_for(wait_readable(listener.fileno()), START_SEC)
                connection, _ = listener.accept()
            finally:
                listener.close()
                (folder / "s").unlink(missing_ok=True)  # nobody else may call
            channel, _, descriptors = await greet(connection, timeout_sec=START_SEC)
            return await self._sandbox(request, container, channel, descriptors, folder)
        except BaseException as error:
            if channel is not None:
                await channel.kill()
            if container is not None:
                await asyncio.shield(asyncio.to_thread(self._remove, container))
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError | TimeoutError | self._sdk.errors.DockerException):
                raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {error!r}") from error
            raise

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._running)))
        await asyncio.to_thread(self._remove_owned, self._state.owner)
        self._state.close()
        self._client.close()

    async def _image(self, request: SandboxRequest) -> str:
        """Tag of the image for what the request shows inside; built if the engine does not have it yet."""
        key = (request.lower, request.mounts, request.image, request.workdir)
        async with self._lock:
            if key not in self._images:
                self._images[key] = await asyncio.to_thread(self._build, request)
            return self._images[key]

    def _build(self, request: SandboxRequest) -> str:
        packages = images.prepare(request.image) if request.image else None
        places = context.sources(request, packages)
        tag = f"{REPOSITORY}:{context.digest(f'{self._base} {request.workdir}', places)}"
        try:
            self._client.images.get(tag)
        except self._sdk.errors.ImageNotFound:
            archive = context.build_context(self._base, places, request.workdir)
            self._client.images.build(
                fileobj=_File(archive), custom_context=True, tag=tag, rm=True, network_mode="none"
            )
        return tag

    def _run(self, request: SandboxRequest, image: str, name: str, folder: Path) -> Any:
        size = f"size={max(16, request.memory_mib // 2)}m,exec"
        box = {
            "lower": context.LOWER,
            "workdir": request.workdir,
            "python_path": [bwrap.IMAGE] if request.image else [],
            "listen": request.forward_port if request.forward else None,
            "limits": {"CORE": 0},
            "isolated": True,
        }
        program = bwrap.program("solo", json.dumps(box))
        container = self._client.containers.create(
            image,
            ["/usr/bin/python3", "-P", "-s", "-S", "-B", *program, f"{CONTROL}/s"],
            name=name,
            labels={LABEL: self._state.owner},
            environment={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
            network_mode="none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=True,
            tmpfs=dict.fromkeys((request.workdir, "/tmp", "/root", "/logs", "/run", "/var/tmp"), size),
            volumes={str(folder): {"bind": CONTROL, "mode": "rw"}},
            mem_limit=f"{request.memory_mib}m",
            memswap_limit=f"{request.memory_mib}m",
            pids_limit=request.pids,
            init=False,  # the supervisor is process 1: it reaps orphans, and nothing inside can kill it
            log_config=self._sdk.types.LogConfig(type="none"),
        )
        try:
            container.start()
        except BaseException:
            self._remove(container)
            raise
        return container

    async def _sandbox(
        self, request: SandboxRequest, container: Any, channel: Channel, descriptors: list[int], folder: Path
    ) -> BoxSandbox:
        forwarder: Forwarder | None = None
        if descriptors and request.forward is not None:
            forwarder = Forwarder(socket.socket(fileno=descriptors[0]), request.forward)
            await forwarder.start()

        async def on_stop() -> None:
            if forwarder is not None:
                forwarder.close()
            await channel.kill()
            await asyncio.to_thread(self._remove, container)
            shutil.rmtree(folder, ignore_errors=True)
            self._running.discard(sandbox)

        started = False

        def oom_kills() -> int:
            return self._oom_killed(container) if started else 0

        sandbox = BoxSandbox(
            channel,
            name=request.name,
            workdir=request.workdir,
            env=self._environment(request),
            proxy_url=f"http://127.0.0.1:{request.forward_port}" if forwarder is not None else None,
            on_stop=on_stop,
            oom_kills=oom_kills,
        )
        started = True
        self._running.add(sandbox)
        return sandbox

    def _environment(self, request: SandboxRequest) -> Mapping[str, str]:
        extra = dict(request.env)
        if request.image:
            extra.setdefault("PYTHONPATH", bwrap.IMAGE)
        variables = bwrap.environment(request.workdir, extra)
        if "LD_LIBRARY_PATH" not in extra:
            variables.pop("LD_LIBRARY_PATH", None)  # of this machine's Python, which is not the container's
        return variables

    def _oom_killed(self, container: Any) -> int:
        with contextlib.suppress(self._sdk.errors.DockerException, OSError):
            container.reload()
            return int(bool(container.attrs["State"]["OOMKilled"]))
        return 0

    def _remove(self, container: Any) -> None:
        try:
            container.remove(force=True, v=True)
        except self._sdk.errors.NotFound:
            pass
        except (self._sdk.errors.DockerException, OSError) as error:
            log.warning("container %s may be left: %s", container.name, error)  # the next start removes it

    def _remove_owned(self, owner: str) -> None:
        with contextlib.suppress(self._sdk.errors.DockerException, OSError):
            for container in self._client.containers.list(all=True, filters={"label": f"{LABEL}={owner}"}):
                self._remove(container)


class _File:
    """What the SDK asks of a build context: something to read."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._place = 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._content) if size is None or size < 0 else self._place + size
        part = bytes(self._content[self._place : end])
        self._place += len(part)
        return part

    def __iter__(self) -> Any:
        while part := self.read(1 << 20):
            yield part


def _listen(folder: Path) -> socket.socket:
    """A socket file ``s`` in ``folder``, named through a descriptor: the path itself may be too long for an address."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{place}/s")
        listener.listen(1)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(place)
    return listener


def _import_sdk() -> Any:
    """Docker's own client. A folder called ``docker`` on Python's path would come in its place without a word."""
    try:
        sdk = importlib.import_module("docker")
        errors = importlib.import_module("docker.errors")
        importlib.import_module("docker.types")
    except ImportError as error:
        raise MachineError(f"the docker client for Python is not installed ({error})", fix=INSTALL) from error
    if not hasattr(sdk, "DockerClient") or not hasattr(errors, "DockerException"):
        where = getattr(sdk, "__file__", None) or list(getattr(sdk, "__path__", ["?"]))
        raise MachineError(f"{where} stands in the way of the docker client", fix="rename it, or start elsewhere")
    return sdk
