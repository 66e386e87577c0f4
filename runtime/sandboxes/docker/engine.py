"""Calls of the engine's API off the event loop, repeated where the engine falters; images built or pulled once.

A call is repeated only if repeating is safe: looking, building an image of a content, making a container of a fixed
name, starting it. An engine that restarts is waited for; one that is merely wrong is asked a few times; one without
space is believed at once. It does not know boxes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import posixpath
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from runtime.errors import ImageError, MachineError
from runtime.oci.credentials import credentials
from runtime.oci.merged import merge
from runtime.oci.reference import mirrored, parse
from runtime.oci.store import BUILT, ImageStore
from runtime.oci.types import Image
from runtime.sandboxes import images
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.docker import context
from runtime.sandboxes.docker.connection import Connection

log = logging.getLogger(__name__)

TASK_IMAGES = ("image_hits", "image_misses", "image_fetch_sec", "images_ahead")
REPOSITORY = "liverl/sandbox"
BUILT_HERE = "liverl/built"
"""Of images that were built for tasks on the trainer's machine."""
PATIENCE_SEC = 30.0
"""How long an engine that does not answer (it restarts) is waited for."""
ATTEMPTS = 5
"""How often an engine or registry that answers with an error of its own is asked."""
_CALLS = 8
_BUILDS = 2
_FULL = ("no space left on device", "disk quota exceeded")

T = TypeVar("T")


class Engine:
    """One engine. mirrors: registry -> the one that the engine asks in its place for images of tasks. ``counts``:
    images that were built, found in the engine, and asked for again; tasks' images that boxes found there, that they
    had pulled, the seconds of that, and those that were pulled ahead."""

    def __init__(
        self, connection: Connection, sdk: Any, *, base: str, mirrors: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.sdk = sdk
        self._connection = connection
        self.client = connection.client(sdk)
        self._mirrors = dict(mirrors)
        self.counts: dict[str, float] = {"images_built": 0, "images_found": 0, "images_reused": 0}
        self.counts |= dict.fromkeys(TASK_IMAGES, 0)
        self.waiting = 0
        """Boxes that wait for a task's image."""
        try:
            self._base = self._base_image(base)
        except BaseException:
            self.client.close()
            raise
        self._threads = ThreadPoolExecutor(_CALLS, thread_name_prefix="docker")
        self._builds = asyncio.Semaphore(_BUILDS)
        self._images: dict[Any, asyncio.Task[str]] = {}

    async def call(self, function: Callable[[], T]) -> T:
        """``function()`` in a thread, again where that is worth while. Raises what it raised last."""
        start, attempt = time.monotonic(), 0
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._once, function)
            except (self.sdk.errors.APIError, OSError) as error:
                attempt += 1
                if not self._worth_repeating(error, attempt, time.monotonic() - start):
                    raise
                log.info("docker engine falters, asked again: %s", error)
            await asyncio.sleep(min(3.0, 0.1 * 2**attempt) * random.uniform(0.75, 1.25))

    def _once(self, function: Callable[[], T]) -> T:
        self._connection.knock()
        return function()

    async def image(self, request: SandboxRequest) -> str:
        """Tag of the image for what the request shows inside; built if the engine does not have it yet."""
        key = _image_key(request)
        task = self._images.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._images[key] = asyncio.ensure_future(self._prepare(request))
        else:
            self.counts["images_reused"] += 1
            self.counts["image_hits"] += request.root is not None
        return await asyncio.shield(task)

    def forget(self, request: SandboxRequest) -> None:
        """The engine has lost this request's image: look again next time."""
        self._images.pop(_image_key(request), None)

    async def close(self) -> None:
        for task in self._images.values():
            task.cancel()
        await asyncio.gather(*self._images.values(), return_exceptions=True)
        self._threads.shutdown(wait=False)
        self.client.close()

    async def _prepare(self, request: SandboxRequest) -> str:
        packages = await asyncio.to_thread(images.prepare, request.image) if request.image else None
        async with self._builds:
            tag, built = await self.call(lambda: self._build(request, packages))
        self.counts["images_built" if built else "images_found"] += 1
        return tag

    def _build(self, request: SandboxRequest, packages: Path | None) -> tuple[str, bool]:
        places = context.sources(request, packages)
        base = self._base if request.root is None else self._own_image(request.root)
        tag = f"{REPOSITORY}:{context.digest(f'{base} {request.workdir}', places)}"
        try:
            self.client.images.get(tag)
            return tag, False
        except self.sdk.errors.ImageNotFound:
            archive = context.build_context(self._without_triggers(base), places, request.workdir)
            self.client.images.build(fileobj=_File(archive), custom_context=True, tag=tag, rm=True, network_mode="none")
            return tag, True

    def volumes(self, image: str) -> list[str]:
        """Places at which the engine mounts a volume of its own, unless something else is mounted there. Blocks."""
        named = (self.client.images.get(image).attrs.get("Config") or {}).get("Volumes") or {}
        return [posixpath.normpath(one) for one in named]

    def _without_triggers(self, base: str) -> str:
        """The same image without what it wants done in builds that stand on it (``ONBUILD``): ours is none of these."""
        if not (self.client.images.get(base).attrs.get("Config") or {}).get("OnBuild"):
            return base
        container = self.client.containers.create(base, ["nothing"], network_mode="none")
        try:
            return str(container.commit().id)
        finally:
            container.remove(force=True, v=True)

    def _own_image(self, image: Image) -> str:
        """The engine's id of a task's image. One that was built on this machine is brought to the engine, once, as one
        layer: from the same store that other backends make their boxes of. Raises ``MachineError``. Blocks."""
        if not image.reference.startswith(BUILT):
            return self._pulled(mirrored(image.reference, self._mirrors))
        tag = image.digest.removeprefix("sha256:")[:24]
        with contextlib.suppress(self.sdk.errors.ImageNotFound):
            return str(self.client.images.get(f"{BUILT_HERE}:{tag}").id)
        store = ImageStore()
        with tempfile.TemporaryDirectory(prefix="liverl-image-") as folder:
            store.hold(image)
            try:
                merge([store.layer(one) for one in image.folders], "/", Path(folder) / "tree")
            finally:
                store.close()
            with tarfile.open(f"{folder}/image.tar", "w") as archive:
                archive.add(f"{folder}/tree", arcname=".", filter=_of_root)
            self.client.api.import_image_from_file(f"{folder}/image.tar", repository=BUILT_HERE, tag=tag)
        return str(self.client.images.get(f"{BUILT_HERE}:{tag}").id)

    def _pulled(self, name: str) -> str:
        """``_base_image`` of a task's image, counted."""
        if self.has(name):
            self.counts["image_hits"] += 1
            return self._base_image(name)
        began = time.monotonic()
        self.waiting += 1
        try:
            return self._base_image(name)
        finally:
            self.waiting -= 1
            self.counts["image_misses"] += 1
            self.counts["image_fetch_sec"] += time.monotonic() - began

    def has(self, name: str) -> bool:
        with contextlib.suppress(self.sdk.errors.DockerException, OSError):
            self.client.images.get(name)
            return True
        return False

    def _base_image(self, base: str) -> str:
        """Its id; pulled where the engine does not have it. Raises ``MachineError``. Blocks."""
        errors = self.sdk.errors
        try:
            return str(self.client.images.get(base).id)
        except errors.ImageNotFound:
            pass
        except (errors.DockerException, OSError) as error:
            raise MachineError(f"docker: image {base}: {error}", fix="look into the engine's log") from error
        start, attempt = time.monotonic(), 0
        while True:
            try:
                log.info("docker: pulling %s", base)
                name = base if ":" in base.rpartition("/")[2] else f"{base}:latest"
                return str(self.client.images.pull(name, auth_config=login(base)).id)
            except (errors.APIError, OSError) as error:
                attempt += 1
                busy = "toomanyrequests" in str(error) or "429" in str(error)
                if not (busy and attempt < ATTEMPTS) and (
                    _is_missing(error) or not self._worth_repeating(error, attempt, time.monotonic() - start)
                ):
                    why = "the registry is too busy (429)" if busy else str(getattr(error, "explanation", error))
                    raise ImageError(
                        f"docker: no image {base}: {why}",
                        fix=f"docker pull {base} (docker login raises a registry's limits), or docker import",
                    ) from error
            time.sleep(0.2 * 2**attempt * random.uniform(0.75, 1.25))

    def _worth_repeating(self, error: Exception, attempt: int, seconds: float) -> bool:
        if isinstance(error, self.sdk.errors.APIError):
            status = error.status_code or 0
            full = any(words in str(error).lower() for words in _FULL)
            return (status >= 500 or status == 429) and not full and attempt < ATTEMPTS
        return seconds < PATIENCE_SEC  # OSError: requests' errors of connections are such


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _image_key(request: SandboxRequest) -> Any:
    return (request.lower, request.mounts, request.image, request.workdir, request.root)


def login(name: str) -> dict[str, str] | None:
    """The password of a registry, where this machine has one; None leaves it to the engine's library."""
    try:
        found = credentials(parse(name).registry)
    except ValueError:
        return None
    return {"username": found[0], "password": found[1]} if found is not None else None


def _is_missing(error: Exception) -> bool:
    words = ("not found", "manifest unknown", "no such host", "connection refused", "denied", "unauthorized", "lookup")
    return any(word in str(error).lower() for word in words)


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
