"""One pod per sandbox: made, waited for, furnished, watched, deleted.

Pods outlive us no longer than their active deadline; what a killed trainer left is removed when its run goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runtime.addresses import web_address
from runtime.config import KubernetesCluster
from runtime.errors import MachineError, Termination, TrialError
from runtime.oci.types import Image
from runtime.sandboxes import own_image
from runtime.sandboxes.ahead import Announced
from runtime.sandboxes.base import Capabilities, ExecResult, SandboxRequest
from runtime.sandboxes.box import check_lower
from runtime.sandboxes.kubernetes import pods, status
from runtime.sandboxes.kubernetes.api import Api, ApiError, CommandNotStarted, connect
from runtime.sandboxes.kubernetes.prepull import Prepull
from runtime.sandboxes.kubernetes.watch import PodWatch
from runtime.sandboxes.leaving import Leaving
from runtime.sandboxes.pair import PairedRemoteSandbox
from runtime.sandboxes.remote import PROXY_HOST, LinkCut, RemoteSandbox

log = logging.getLogger(__name__)

STARTS = 3
"""How often a command that the server failed to start is tried while its pod lives."""
NEWS_SEC = 3.0
"""How long the cluster may take to say why a box is gone."""
_PROBE = """import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        continue
    print(place)
"""


_MARKS = """import json, os, sys
def mark(path):
    if not os.path.isdir(path):
        return str(os.path.getsize(path)) if os.path.exists(path) else ""
    complete = os.path.join(path, ".complete")
    return open(complete).read() if os.path.exists(complete) else "folder"
print(json.dumps({path: mark(path) for path in sys.argv[1:]}))
"""


def mark(path: Path) -> str:
    """What tells one version of an agent's part from another: a file's size, a folder's pins (``_MARKS`` in a box)."""
    if not path.is_dir():
        return str(path.stat().st_size)
    complete = path / ".complete"
    return complete.read_text() if complete.exists() else "folder"


UNREACHABLE = (
    f"pods cannot reach the model proxy: environment.kubernetes.proxy_host is not set, nor is POD_IP or {PROXY_HOST}"
)


def proxy_host(settings: KubernetesCluster) -> str | None:
    """Where pods find the model: as set, or else this machine's own address."""
    return settings.proxy_host or os.environ.get("POD_IP") or os.environ.get(PROXY_HOST) or None


class PodSandbox(RemoteSandbox):
    """One running pod."""

    alone = True

    def __init__(
        self,
        request: SandboxRequest,
        provider: KubernetesProvider,
        pod: dict[str, Any],
        proxy_url: str | None,
        *,
        container: str = pods.CONTAINER,
        home: str | None = None,
    ) -> None:
        super().__init__(request, env={} if home is None else {"HOME": home}, proxy_url=proxy_url)
        self._provider = provider
        self._container = container
        self._pod = str(pod["metadata"]["name"])
        self._uid = str(pod["metadata"]["uid"])

    @property
    def alive(self) -> bool:
        return not self._provider.known_dead(self._pod, self._uid)

    @property
    def pod(self) -> str:
        """Its name in the cluster."""
        return self._pod

    async def _call(self, command: Sequence[str], stdin: bytes, *, timeout_sec: float) -> ExecResult:
        api, _ = await self._provider.connected()
        for attempt in range(STARTS):
            try:
                async with asyncio.timeout(timeout_sec):
                    result = await api.exec(self._pod, command, stdin, container=self._container)
                break
            except LinkCut as error:
                await self._raise_death(str(error))
                raise
            except (CommandNotStarted, ApiError) as error:
                await self._raise_death(str(error))
                if not isinstance(error, ApiError) or error.status != 500 or attempt == STARTS - 1:
                    raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: {error}") from error
        if result.exit_code == 137:
            await self._raise_death("killed", patience_sec=1.0)
        return result

    async def _raise_death(self, why: str, *, patience_sec: float = NEWS_SEC) -> None:
        """Raise what ended the pod, as soon as the cluster knows it; return if it lives on, or nobody can be asked."""
        _, watch = await self._provider.connected()
        guess: TrialError | None = None

        def look(pod: dict[str, Any] | None) -> TrialError | None:
            nonlocal guess
            guess = status.death(pod, self.name)
            return guess if status.explained(pod) else None

        try:
            death: TrialError | None = await watch.wait(self._pod, look, timeout_sec=patience_sec)
        except (TimeoutError, ApiError):
            death = guess
        if death is not None:
            raise TrialError(death.termination, f"{death} ({why})")

    async def _end(self) -> None:
        self._provider.forget(self)
        api, _ = await self._provider.connected()
        await api.delete(self._pod, uid=self._uid)


class KubernetesProvider:
    """Implements ``SandboxProvider``. run: what all boxes of one run are labelled with (for ``reap``); mirrors:
    registry -> the one that nodes ask in its place for images of tasks; announced: which will be wanted, ahead: how
    many of them nodes pull before boxes ask for them."""

    def __init__(
        self,
        settings: KubernetesCluster,
        *,
        run: str,
        mirrors: Mapping[str, str] = MappingProxyType({}),
        announced: Callable[[], Announced] = Announced,
        ahead: int = 0,
    ) -> None:
        self._settings = settings
        self._mirrors = dict(mirrors)
        self._run = pods.label(run)
        if not self._run:
            raise ValueError(f"run {run!r} gives no label")
        self._owner = pods.label(f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
        self._prepull = Prepull(
            settings, run=self._run, owner=self._owner, mirrors=mirrors, announced=announced, images=ahead
        )
        self._api: Api | None = None
        self._watch: PodWatch | None = None
        self._lock = asyncio.Lock()
        self._running: set[PodSandbox] = set()
        self._leaving = Leaving()
        self._seen: set[str] = set()
        self._open: tuple[str, ...] | None = None if settings.egress_probes else ()

    @property
    def capabilities(self) -> Capabilities:
        """``network_off`` only once every probe from inside a box was blocked: a policy object proves nothing."""
        probed = bool(self._settings.egress_probes) and self._open == ()
        return Capabilities(
            isolation="kubernetes",
            network_off=probed,
            fresh_filesystem=True,
            memory_limit=True,
            cpu_limit=True,
            second_user=self._settings.user is None,
            second_box=True,
            task_images=True,
            made_by="kubernetes" + (f"+{self._settings.runtime_class}" if self._settings.runtime_class else ""),
        )

    @property
    def counts(self) -> Mapping[str, float]:
        """Of tasks' images: boxes whose node had them as this run knows, the others and how long those took to start,
        and images pulled ahead."""
        return self._prepull.counts

    async def connected(self) -> tuple[Api, PodWatch]:
        async with self._lock:
            if self._api is None or self._watch is None:
                self._api = self._api or await connect(self._settings)
                if left := await reap(self._api, run=self._run, owner=self._owner):
                    log.info("removed %d pods of an earlier start of this run", len(left))
                self._watch = PodWatch(self._api, f"{pods.RUN}={self._run},{pods.OWNER}={self._owner}")
                self._watch.start()
            return self._api, self._watch

    async def start(self, request: SandboxRequest) -> PodSandbox | PairedRemoteSandbox:
        check_lower(request, images=True)
        proxy_url = self._proxy_url(request)
        began = time.monotonic()
        try:
            api, watch = await self.connected()
        except ApiError as error:
            raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {error}") from error
        changed = request.root is not None and await asyncio.to_thread(own_image.is_changed, request)
        how: dict[str, Any] = {"mirrors": self._mirrors, "changed": changed}
        pod = pods.manifest(request, self._settings, run=self._run, owner=self._owner, **how)
        name = pod["metadata"]["name"]
        patience = self._settings.startup_deadline_sec
        try:
            created = await api.create(pod, patience_sec=patience)
            own, home = request.root is not None, pods.HOME if self._settings.user is not None else None
            home = home if own else None
            sandbox = PodSandbox(request, self, created, proxy_url, home=home)
            solution: PodSandbox | None = None
            if pods.in_two(request, self._settings):
                solution = PodSandbox(request, self, created, None, container=pods.SOLUTION, home=home)
            if own:
                receiver = PodSandbox(replace(request, root=None), self, created, None, container=pods.RECEIVER)
                await self._ready(watch, name, request.name, patience, receiver=True)
                await receiver.receive(replace(request, mounts=pods.uploads(request)), changed=changed)
            await self._ready(watch, name, request.name, patience)
            if request.root is not None:
                self._seen_on(watch, name, request.root, seconds=time.monotonic() - began)
                self._prepull.start(api, watch)
            brought = replace(request, mounts=pods.uploads(request))
            await asyncio.gather(*(box.furnish(brought) for box in (sandbox, solution) if box is not None))
            await self._probe(sandbox)
            await self._brought(sandbox, request)
        except BaseException as error:
            with contextlib.suppress(ApiError):
                await self._leaving.await_(api.delete(name))
            if isinstance(error, ApiError | ValueError):  # a value: the client's own check of the manifest
                raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {error}") from error
            if isinstance(error, TrialError) and error.termination is Termination.SANDBOX_LOST:
                raise TrialError(Termination.ENV_SETUP_FAILED, str(error)) from error
            raise
        self._running.add(sandbox)
        return sandbox if solution is None else PairedRemoteSandbox(sandbox, solution)

    def _seen_on(self, watch: PodWatch, name: str, root: Image, *, seconds: float) -> None:
        if (node := watch.node(name)) is not None:
            self._prepull.started(node, root.reference, seconds=seconds)

    def known_dead(self, pod: str, uid: str) -> bool:
        """Whether the watch has seen the pod end or go."""
        return self._watch is not None and self._watch.ended(pod, uid)

    def forget(self, sandbox: PodSandbox) -> None:
        self._running.discard(sandbox)

    async def close(self) -> None:
        await self._prepull.close()
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._running)))
        await self._leaving.close()
        if self._watch is not None:
            await self._watch.close()
        if self._api is not None:
            await self._api.close()
        self._api = self._watch = None

    def _proxy_url(self, request: SandboxRequest) -> str | None:
        if request.forward is None:
            return None
        host = proxy_host(self._settings)
        if host is None:
            raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {UNREACHABLE}")
        return web_address(host, request.forward[1])

    async def _ready(
        self, watch: PodWatch, name: str, title: str, patience_sec: float, *, receiver: bool = False
    ) -> None:
        """Until the box runs, or before that the container that takes in what it needs."""
        last: dict[str, Any] = {}

        def look(pod: dict[str, Any] | None) -> TrialError | bool | None:
            last.update(pod or {})
            if pod is not None and (status.receiving(pod, pods.RECEIVER) if receiver else status.running(pod)):
                return True
            if pod is not None and (why := status.never_starts(pod)) is not None:
                return TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {title}: {why}")
            return status.death(pod, title)

        try:
            found = await watch.wait(name, look, timeout_sec=patience_sec)
        except TimeoutError:
            why = f"no pod within {patience_sec:g} s: {status.waiting_for(last)}"
            raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {title}: {why}") from None
        if isinstance(found, TrialError):
            raise found

    async def _brought(self, sandbox: PodSandbox, request: SandboxRequest) -> None:
        """Once per image: it holds the agent that this run installed, not an older one."""
        image = pods.agent_image(request)
        if image is None or image in self._seen:
            return
        mounts = [mount for mount in request.mounts if mount.image is not None]
        wanted = {mount.target: mark(mount.source) for mount in mounts}
        argv = ["python3", "-c", _MARKS, *wanted]
        result = await sandbox.exec(argv, cwd="/", timeout_sec=60)
        found = json.loads(result.stdout) if result.exit_code == 0 else {}
        wrong = sorted(target for target, expected in wanted.items() if found.get(target) != expected)
        if wrong:
            raise MachineError(
                f"scaffold.runtime_image {image} does not hold this run's agent: {', '.join(wrong)}",
                fix="build it again with the bundle's agent.Dockerfile",
            )
        self._seen.add(image)

    async def _probe(self, sandbox: PodSandbox) -> None:
        """Once: try from inside to reach what must not be reachable."""
        if self._open is None:
            argv = ["python3", "-c", _PROBE, *self._settings.egress_probes]
            result = await sandbox.exec(argv, cwd="/", timeout_sec=30 + 4 * len(self._settings.egress_probes))
            if result.exit_code != 0:
                why = result.stderr.decode(errors="replace").strip()[-200:]
                raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {sandbox.name}: egress probe: {why}")
            self._open = tuple(result.stdout.decode().split())
            if self._open:
                log.warning("NetworkPolicy is not enforced: a sandbox reached %s", ", ".join(self._open))
        if self._settings.require_isolation and not self.capabilities.network_off:
            reached = f"a sandbox reached {', '.join(self._open)}" if self._open else "no egress probe is set"
            fix = "use a network plug-in that enforces NetworkPolicy, and set environment.kubernetes.egress_probes"
            raise MachineError(f"sandboxes are not cut off the network: {reached}", fix=fix)


async def reap(api: Api, *, run: str, owner: str) -> list[str]:
    """Delete the pods of ``run`` that another owner left, running or not, and return their names. A run has one owner
    at a time, so any other one is dead; its pods would hold the namespace's quota until their active deadline."""
    found, _ = await api.list(f"{pods.RUN}={run},{pods.MANAGED_BY}=liverl")
    removed = []
    for pod in found:
        meta = pod["metadata"]
        labels = meta.get("labels", {})
        if labels.get(pods.RUN) != run or labels.get(pods.OWNER) in (owner, None) or status.deleted(pod):
            continue
        if await api.delete(meta["name"], uid=meta["uid"]):  # not another pod of that name
            removed.append(meta["name"])
    return removed
