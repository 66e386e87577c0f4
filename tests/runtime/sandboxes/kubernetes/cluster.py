"""A small API server for tests: real HTTP and websockets, state with versions, watches, and faults on demand.

Behaves as a v1.36 server was seen to: 404, 409, 410, 422 and 429 as Status objects, watches with bookmarks, commands on
v4 and v5 channels, pods whose image is missing stay Pending. Pods run in ``node.Container``.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import re
import signal
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from aiohttp import WSMsgType, web

from .node import Container, Volumes

PODS = "/api/v1/namespaces/{namespace}/pods"
IMAGE = "registry.example/box:1"


@dataclass
class Fault:
    """Answers that match get ``status`` instead, ``times`` times. status 0: the connection is dropped."""

    method: str
    path: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    """Let the request take effect first, and lose the answer."""
    query: str = ""


class Cluster:
    def __init__(self, *, images: set[str] | None = None) -> None:
        self.images = images if images is not None else {IMAGE}
        self.agents: dict[str, Path] = {}
        """Image -> what it holds at /opt/agent."""
        self.trees: dict[str, Path] = {}
        """Image -> its files; images that are not here are this machine's programs."""
        self.pods: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, Container] = {}
        self._beside: dict[tuple[str, str], Container] = {}
        """By pod and name: init containers while they run, and those that run beside the first one."""
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.pull_error: Callable[[str], str | None] = lambda image: None
        self.nodes = itertools.cycle(["node-1"])
        """Where the scheduler puts the next pod that names none."""
        self.pulls: list[tuple[str, str]] = []
        """(node, image) of pods that were there for nothing else, as they ended."""
        self.quota: int | None = None
        self.exec_cuts = 0
        """So many commands lose their connection after the first output or at their end."""
        self.protocols: list[str] = []
        self._versions = itertools.count(100)
        self._version = 99
        self._log: list[tuple[int, str, dict[str, Any]]] = []
        self._forgotten = 0
        self._full: set[str] = set()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchers: set[web.StreamResponse] = set()
        self._transports: set[Any] = set()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application(middlewares=[self._gate], client_max_size=16 << 20)
        app.router.add_post(PODS, self._create)
        app.router.add_get(PODS, self._list)
        app.router.add_get(PODS + "/{name}", self._read)
        app.router.add_delete(PODS + "/{name}", self._delete)
        app.router.add_get(PODS + "/{name}/exec", self._exec)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for container in (*self.containers.values(), *self._beside.values()):
            await container.stop()
        self.cut_watches()
        if self._runner is not None:
            await self._runner.cleanup()

    def kubeconfig(self, path: Path) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "secret-token"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    # faults

    def cut_watches(self) -> int:
        for transport in self._transports:
            transport.abort()
        return len(self._transports)

    def forget(self) -> None:
        """Compaction: every version until now is too old to watch from."""
        self._forgotten = self._version
        self._log.clear()

    async def evict(self, name: str) -> None:
        pod = self.pods[name]
        message = "The node was low on resource: memory."
        pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": message}
        pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]
        await self._change("MODIFIED", pod)
        if name in self.containers:
            self.containers[name].kill()
            await self.containers[name].ended

    def evict_for_disk(self, name: str) -> None:
        """The container is told to end, and does so in good order; the pod's own status says why a moment later."""
        self._full.add(name)
        self.containers[name].kill(signal.SIGTERM)

    # the server

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        if request.headers.get("Authorization") != "Bearer secret-token":
            return _status(401, "Unauthorized", "Unauthorized")
        for fault in self.faults:
            matches = fault.method == request.method and re.search(fault.path, request.path)
            if fault.times and matches and fault.query in request.query_string:
                fault.times -= 1
                if fault.after:
                    await handler(request)
                if fault.status == 0:
                    assert request.transport is not None
                    request.transport.abort()
                return _status(fault.status or 500, "InternalError", "injected", headers=fault.headers)
        response: web.StreamResponse = await handler(request)
        return response

    async def _change(self, kind: str, pod: dict[str, Any]) -> None:
        async with self._changed:
            self._version = next(self._versions)
            pod["metadata"]["resourceVersion"] = str(self._version)
            self._log.append((self._version, kind, copy.deepcopy(pod)))
            self._changed.notify_all()

    async def _create(self, request: web.Request) -> web.Response:
        pod = await request.json()
        name = pod["metadata"]["name"]
        try:
            kubernetes_validate.validate(pod, "1.37", strict=True)
        except kubernetes_validate.ValidationError as error:
            return _status(422, "Invalid", f"Pod is invalid: {error.message}")
        if len(name) > 63 or not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name):
            return _status(422, "Invalid", f"metadata.name: Invalid value: {name!r}")
        for value in pod["metadata"].get("labels", {}).values():
            if not re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?", value):
                return _status(422, "Invalid", f"metadata.labels: Invalid value: {value!r}")
        if name in self.pods:
            return _status(409, "AlreadyExists", f'pods "{name}" already exists')
        if self.quota is not None and len(self.pods) >= self.quota:
            return _status(403, "Forbidden", f'pods "{name}" is forbidden: exceeded quota: sandboxes')
        pod["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z"}
        pod["status"] = {"phase": "Pending"}
        pod["spec"]["nodeName"] = _wanted_node(pod["spec"]) or next(self.nodes)
        self.pods[name] = pod
        await self._change("ADDED", pod)
        answer = web.json_response(pod, status=201)
        self._spawn(self._run(pod))
        return answer

    async def _list(self, request: web.Request) -> web.StreamResponse:
        selector = request.query.get("labelSelector", "")
        if request.query.get("watch") == "true":
            return await self._watch(request, selector)
        chosen = sorted((pod for pod in self.pods.values() if _matches(pod, selector)), key=_name)
        start = int(request.query.get("continue") or 0)
        limit = int(request.query.get("limit") or len(chosen) or 1)
        meta = {"resourceVersion": str(self._version)}
        if start + limit < len(chosen):
            meta["continue"] = str(start + limit)
        page = chosen[start : start + limit]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": page})

    async def _watch(self, request: web.Request, selector: str) -> web.StreamResponse:
        seen = int(request.query.get("resourceVersion") or self._version)
        if seen < self._forgotten:
            return _status(410, "Expired", f"too old resource version: {seen} ({self._version})")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        assert request.transport is not None
        self._transports.add(request.transport)
        deadline = asyncio.get_running_loop().time() + int(request.query.get("timeoutSeconds") or 240)
        try:
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                if seen < self._forgotten:
                    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
                    await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                    break
                for version, kind, pod in [entry for entry in self._log if entry[0] > seen]:
                    seen = version
                    if _matches(pod, selector):
                        await response.write(json.dumps({"type": kind, "object": pod}).encode() + b"\n")
                meta = {"resourceVersion": str(seen)}
                mark = {"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": meta}}
                await response.write(json.dumps(mark).encode() + b"\n")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, 1.0)), self._changed:
                        await self._changed.wait()
        except ConnectionError:
            pass
        finally:
            self._transports.discard(request.transport)
        return response

    async def _read(self, request: web.Request) -> web.Response:
        pod = self.pods.get(request.match_info["name"])
        return web.json_response(pod) if pod else _missing(request)

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        pod = self.pods.get(name)
        if pod is None:
            return _missing(request)
        options = json.loads(await request.text() or "{}")
        for key, value in (options.get("preconditions") or {}).items():
            if value and pod["metadata"][key] != value:
                return _status(409, "Conflict", f"Precondition failed: {key} in precondition: {value}")
        if not pod["metadata"].get("deletionTimestamp"):
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            await self._change("MODIFIED", pod)
            self._spawn(self._remove(name))
        return web.json_response(pod)

    async def _remove(self, name: str) -> None:
        container = self.containers.pop(name, None)
        beside = [one for (pod, _), one in self._beside.items() if pod == name]
        for one in (*beside, *([container] if container is not None else [])):
            await one.stop()
        self._beside = {key: one for key, one in self._beside.items() if key[0] != name}
        pod = self.pods.pop(name, None)
        if pod is not None:
            await self._change("DELETED", pod)

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self.pods:
            return _missing(request)
        container = self._beside.get((name, request.query.get("container", ""))) or self.containers.get(name)
        if container is None or container.ended.done():
            return _status(500, "InternalError", 'container not found ("sandbox")')
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"), max_msg_size=32 << 20)
        await socket.prepare(request)
        self.protocols.append(str(socket.ws_protocol))
        try:
            process = await container.exec(request.query.getall("command"))
        except FileNotFoundError as error:
            message = f"Internal error occurred: failed to exec in container: {error}"
            await _finish(socket, {"status": "Failure", "reason": "InternalError", "code": 500, "message": message})
            return socket
        assert process.stdout is not None and process.stderr is not None
        feeding = asyncio.create_task(_feed(socket, process))
        pumps = [_pump(socket, number, s) for number, s in ((1, process.stdout), (2, process.stderr))]
        # As a container runtime does, it waits for the end of the streams, not for that of the process.
        await asyncio.gather(*pumps)
        code = await process.wait()
        feeding.cancel()
        if self.exec_cuts:
            self.exec_cuts -= 1
            assert request.transport is not None
            request.transport.abort()
            return socket
        code = 137 if container.oom or code == -9 else (128 - code if code < 0 else code)
        if code == 0:
            await _finish(socket, {"status": "Success"})
        else:
            details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
            message = f"command terminated with non-zero exit code: exit status {code}"
            status = {"status": "Failure", "reason": "NonZeroExitCode", "message": message, "details": details}
            await _finish(socket, status)
        return socket

    # the node

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pulled(self, pod: dict[str, Any], image: str) -> bool:
        """Once the image is here; False where the pod goes meanwhile."""
        for attempt in itertools.count():
            why = self.pull_error(image)
            if why is None and image not in self.images and image not in self.trees:
                why = f"failed to resolve reference {image!r}: not found"
            if why is None:
                break
            back_off = f'Back-off pulling image "{image}"'
            reason, message = ("ErrImagePull", why) if attempt % 2 == 0 else ("ImagePullBackOff", back_off)
            await self._state(pod, "Pending", {"waiting": {"reason": reason, "message": message}})
            await asyncio.sleep(0.1)
            if pod["metadata"]["name"] not in self.pods:
                return False
        return True

    async def _run(self, pod: dict[str, Any]) -> None:
        volumes = Volumes(pod["spec"], self.agents)
        try:
            await self._run_in(pod, volumes)
        finally:
            volumes.remove()

    async def _before(self, pod: dict[str, Any], volumes: Volumes) -> bool:
        """The init containers, one after the other, each to its end; False where one fails, or the pod goes."""
        name = pod["metadata"]["name"]
        for box in pod["spec"].get("initContainers", ()):
            if box["image"] in self.agents:
                continue
            if not await self._pulled(pod, box["image"]):
                return False
            container = Container(pod["spec"], volumes, box=box, tree=self.trees.get(box["image"]))
            self._beside[name, box["name"]] = container
            try:
                await container.start()
                pod["status"]["initContainerStatuses"] = [
                    {"name": box["name"], "image": box["image"], "state": {"running": {}}}
                ]
                await self._change("MODIFIED", pod)
                end = await container.ended
            finally:
                self._beside.pop((name, box["name"]), None)
                await container.stop()
            pod["status"]["initContainerStatuses"] = [
                {"name": box["name"], "image": box["image"], "state": {"terminated": end}}
            ]
            await self._change("MODIFIED", pod)
            if self.pods.get(name) is not pod or end["exitCode"]:
                if self.pods.get(name) is pod:
                    await self._state(pod, "Failed", {"waiting": {"reason": "PodInitializing"}})
                return False
        return True

    async def _run_in(self, pod: dict[str, Any], volumes: Volumes) -> None:
        name, image = pod["metadata"]["name"], pod["spec"]["containers"][0]["image"]
        if not await self._before(pod, volumes) or not await self._pulled(pod, image):
            return
        if pod["spec"]["containers"][0].get("command") == ["/.liverl-nothing"]:
            self.pulls.append((pod["spec"]["nodeName"], image))
            why = "exec: /.liverl-nothing: no such file or directory"
            await self._state(pod, "Failed", {"terminated": {"exitCode": 128, "reason": "StartError", "message": why}})
            return
        first, *others = pod["spec"]["containers"]
        container = Container(pod["spec"], volumes, box=first, tree=self.trees.get(image))
        beside = {
            (name, box["name"]): Container(pod["spec"], volumes, box=box, tree=self.trees.get(box["image"]))
            for box in others
        }
        for one in (container, *beside.values()):
            await one.start()
        if self.pods.get(name) is not pod or pod["metadata"].get("deletionTimestamp"):
            for one in (container, *beside.values()):
                await one.stop()
            return
        self.containers[name] = container
        self._beside |= beside
        await self._state(pod, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})
        try:
            end = await asyncio.wait_for(asyncio.shield(container.ended), pod["spec"].get("activeDeadlineSeconds"))
        except TimeoutError:
            pod["status"]["reason"] = "DeadlineExceeded"
            container.kill()
            end = await container.ended
        if self.pods.get(name) is pod:
            phase = "Succeeded" if end["exitCode"] == 0 else "Failed"
            await asyncio.sleep(0.1)  # the kubelet takes a while to report
            if name in self._full:
                await self._state(pod, "Running", {"terminated": end})
                await asyncio.sleep(0.3)
                message = "Pod ephemeral local storage usage exceeds the total limit of containers 4Gi."
                pod["status"] |= {"reason": "Evicted", "message": message}
                phase = "Failed"
            await self._state(pod, phase, {"terminated": end})

    async def _state(self, pod: dict[str, Any], phase: str, state: dict[str, Any]) -> None:
        """state: of all its containers, of which a test ends only the first one."""
        pod["status"] |= {
            "phase": phase,
            "containerStatuses": [
                {
                    "name": box["name"],
                    "image": box["image"],
                    "ready": "running" in state,
                    "restartCount": 0,
                    "state": state,
                }
                for box in pod["spec"]["containers"]
            ],
        }
        await self._change("MODIFIED", pod)


async def _feed(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        async for message in socket:
            data = message.data.encode() if message.type is WSMsgType.TEXT else message.data
            if data[:1] == b"\0":
                process.stdin.write(data[1:])
                await process.stdin.drain()
            elif data == b"\xff\0" and socket.ws_protocol == "v5.channel.k8s.io":
                process.stdin.close()
    # The client is gone. A command goes on without it, as it does in a cluster.


async def _pump(socket: web.WebSocketResponse, number: int, stream: asyncio.StreamReader) -> None:
    while data := await stream.read(32 << 10):
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes([number]) + data)


async def _finish(socket: web.WebSocketResponse, status: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.send_bytes(b"\3" + json.dumps({"metadata": {}, **status}).encode())
        await socket.close()


def _status(code: int, reason: str, message: str, *, headers: dict[str, str] | None = None) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
        "message": message,
    }
    return web.json_response(body, status=code, headers=headers)


def _missing(request: web.Request) -> web.Response:
    return _status(404, "NotFound", f'pods "{request.match_info["name"]}" not found')


def _matches(pod: dict[str, Any], selector: str) -> bool:
    labels = pod["metadata"].get("labels", {})
    return all(
        labels.get(key) == value for key, _, value in (part.partition("=") for part in selector.split(",") if part)
    )


def _wanted_node(spec: dict[str, Any]) -> str | None:
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", ()):
        for field_ in term["matchFields"]:
            return str(field_["values"][0])
    return None


def _name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])
