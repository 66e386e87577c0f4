"""Requests to the API server through the official client, repeated where that is safe, and commands over websocket.

It knows pods as plain data; what they are for it does not know.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from runtime import suggest
from runtime.config import KubernetesCluster
from runtime.errors import MachineError
from runtime.sandboxes.base import ExecResult
from runtime.sandboxes.kubernetes.pods import CONTAINER, NONCE
from runtime.sandboxes.remote import LinkCut

log = logging.getLogger(__name__)

REQUEST_SEC = 30.0
BUDGET_SEC = 60.0
"""How long a request that the server cannot take now is repeated."""
_FRAME = 128 << 10
_MAX_OUTPUT = 96 << 20
_STDOUT, _STDERR, _ERROR = 1, 2, 3
_PASSING = (429, 500, 502, 503, 504)
_BUSY = (429, 502, 503, 504)  # to a command, 500 may also mean that there is no container any more


class ApiError(Exception):
    """The server's refusal: its HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class CommandNotStarted(Exception):
    """The server took the connection, but there is no process: the container is gone, or has no such program."""


async def connect(settings: KubernetesCluster) -> Api:
    """Raises ``MachineError`` without the client or a configuration."""
    try:
        from kubernetes.aio import client, config
    except ImportError as error:
        raise MachineError(f"no Kubernetes client: {error}", fix=suggest.pip("kubernetes>=37")) from error
    configuration = client.Configuration()
    try:
        if settings.kubeconfig is None and settings.context is None:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                await config.load_kube_config(client_configuration=configuration, persist_config=False)
        else:
            await config.load_kube_config(
                config_file=settings.kubeconfig,
                context=settings.context,
                client_configuration=configuration,
                persist_config=False,
            )
    except (config.ConfigException, OSError) as error:
        fix = "set environment.kubernetes.kubeconfig, or run inside the cluster"
        raise MachineError(f"no cluster to talk to: {error}", fix=fix) from error
    configuration.connection_pool_maxsize = 0  # no limit: every running command holds a connection
    return Api(configuration, settings.namespace)


class Api:
    """One namespace of one API server. Made by ``connect``, on the event loop that uses it."""

    def __init__(self, configuration: Any, namespace: str) -> None:
        from kubernetes.aio import client
        from kubernetes.aio.stream import WsApiClient

        self._namespace = namespace
        self._client = client.ApiClient(configuration)
        self._sockets = WsApiClient(configuration, heartbeat=30)
        self._core = client.CoreV1Api(self._client)

    async def close(self) -> None:
        await self._client.close()
        await self._sockets.close()

    async def create(self, pod: dict[str, Any], *, patience_sec: float) -> dict[str, Any]:
        """Create a pod; waits for room where a quota is full. A name that is taken already is ours if its nonce is:
        then an earlier attempt had come through."""
        deadline = time.monotonic() + patience_sec
        while True:
            try:
                return await self._json(
                    lambda: self._core.create_namespaced_pod_without_preload_content(
                        self._namespace, pod, field_validation="Strict", _request_timeout=REQUEST_SEC
                    )
                )
            except ApiError as error:
                if error.status == 409:
                    found = await self.read(pod["metadata"]["name"])
                    if found and found["metadata"].get("labels", {}).get(NONCE) == pod["metadata"]["labels"][NONCE]:
                        return found
                if error.status != 403 or "exceeded quota" not in str(error) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1.5))

    async def read(self, name: str) -> dict[str, Any] | None:
        """None: there is no such pod."""
        try:
            return await self._json(
                lambda: self._core.read_namespaced_pod_without_preload_content(
                    name, self._namespace, _request_timeout=REQUEST_SEC
                )
            )
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def delete(self, name: str, *, uid: str | None = None, version: str | None = None) -> bool:
        """False: it was gone, or is another one by now than ``uid`` at ``version``."""
        conditions = {key: value for key, value in (("uid", uid), ("resourceVersion", version)) if value}
        body: dict[str, Any] = {"gracePeriodSeconds": 1}
        if conditions:
            body["preconditions"] = conditions
        try:
            await self._json(
                lambda: self._core.delete_namespaced_pod_without_preload_content(
                    name, self._namespace, body=body, _request_timeout=REQUEST_SEC
                )
            )
        except ApiError as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    async def list(self, selector: str) -> tuple[list[dict[str, Any]], str]:
        """(pods, the version that they stand for), page by page."""
        pods: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            page = await self._json(
                lambda token=token: self._core.list_namespaced_pod_without_preload_content(  # type: ignore[misc]
                    self._namespace, label_selector=selector, limit=500, _continue=token, _request_timeout=REQUEST_SEC
                )
            )
            pods += page.get("items") or []
            token = page["metadata"].get("continue")
            if not token:
                return pods, str(page["metadata"]["resourceVersion"])

    async def watch(self, selector: str, version: str) -> AsyncIterator[dict[str, Any]]:
        """Events since ``version``, until the server or the network ends them. Raises ``ApiError`` (410: too old)."""
        response = await self._core.list_namespaced_pod_without_preload_content(
            self._namespace,
            label_selector=selector,
            resource_version=version,
            watch=True,
            allow_watch_bookmarks=True,
            timeout_seconds=240,
            _request_timeout=300.0,
        )
        try:
            if response.status != 200:
                raise ApiError(response.status, _message(await response.read()))
            async for line in response.content:
                event = json.loads(line)
                if event.get("type") == "ERROR":
                    status = event.get("object") or {}
                    raise ApiError(int(status.get("code") or 500), str(status.get("message")))
                yield event
        finally:
            response.close()

    async def exec(self, pod: str, command: Sequence[str], stdin: bytes, *, container: str = CONTAINER) -> ExecResult:
        """Run ``command``; no deadline of its own. Raises ``LinkCut``, ``CommandNotStarted``, ``ApiError``."""
        import aiohttp

        deadline = time.monotonic() + BUDGET_SEC
        for attempt in range(100):
            try:
                async with await self._open(pod, command, container) as socket:
                    return await _converse(socket, stdin)
            except aiohttp.WSServerHandshakeError as error:  # nothing was started
                if error.status not in _BUSY or time.monotonic() > deadline:
                    raise ApiError(error.status, error.message) from error
                pause = error.headers.get("Retry-After") if error.headers is not None else None
                await asyncio.sleep(_pause(attempt, pause))
            except aiohttp.ClientConnectorError as error:
                if time.monotonic() > deadline:
                    raise LinkCut(f"the API server cannot be reached: {error}") from error
                await asyncio.sleep(_pause(attempt))
            except (aiohttp.ClientError, ConnectionError) as error:
                raise LinkCut(f"the connection was cut: {error!r}") from error
        raise LinkCut("the API server never took the command")

    async def _open(self, pod: str, command: Sequence[str], container: str) -> Any:
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}/exec"
        headers: dict[str, str] = {}
        await self._sockets.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        query: list[tuple[str, Any]] = [("container", container), ("command", list(command))]
        query += [(name, "true") for name in ("stdin", "stdout", "stderr")]
        url = self._sockets.configuration.host + path
        return await self._sockets.request("GET", url, query_params=query, headers=headers, _preload_content=False)

    async def _json(self, request: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
        """The answer of a request that may be repeated. Raises ``ApiError``."""
        import aiohttp

        deadline = time.monotonic() + BUDGET_SEC
        for attempt in range(100):
            pause: str | None = None
            try:
                response = await request()
                body = await response.read()
                if response.status < 300:
                    answer: dict[str, Any] = json.loads(body)
                    return answer
                failure = ApiError(response.status, _message(body))
                pause = response.headers.get("Retry-After")
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                failure = ApiError(503, f"the API server cannot be reached: {error!r}")
            if failure.status not in _PASSING or time.monotonic() > deadline:
                break
            await asyncio.sleep(_pause(attempt, pause))
        raise failure


async def _converse(socket: Any, stdin: bytes) -> ExecResult:
    """One command over an open websocket (v4.channel.k8s.io): the first byte of a message names its stream."""
    import aiohttp

    for start in range(0, len(stdin), _FRAME):
        await socket.send_bytes(b"\0" + stdin[start : start + _FRAME])
    streams = {_STDOUT: bytearray(), _STDERR: bytearray(), _ERROR: bytearray()}
    async for message in socket:
        if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
            break
        data = message.data.encode() if isinstance(message.data, str) else message.data
        if data and data[0] in streams:
            streams[data[0]] += data[1:]
        if sum(map(len, streams.values())) > _MAX_OUTPUT:
            raise LinkCut("the command prints without end")
    if not streams[_ERROR]:
        raise LinkCut("the connection was cut before the command's end")
    return ExecResult(exit_code(bytes(streams[_ERROR])), bytes(streams[_STDOUT]), bytes(streams[_STDERR]))


def exit_code(status: bytes) -> int:
    """From the status object that ends a command. Raises ``CommandNotStarted``, ``LinkCut``."""
    try:
        table = json.loads(status)
        if table["status"] == "Success":
            return 0
        causes = (table.get("details") or {}).get("causes") or ()
        codes = [cause["message"] for cause in causes if cause.get("reason") == "ExitCode"]
        if codes:
            return int(codes[0])
        message = str(table.get("message"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LinkCut(f"the command's status cannot be read: {status[:200]!r}") from error
    raise CommandNotStarted(message)


def _pause(attempt: int, retry_after: str | None = None) -> float:
    """Seconds: what the server asks for, or else doubling, and always a random part."""
    try:
        base = min(float(retry_after), 30.0) if retry_after is not None else min(0.1 * 2**attempt, 5.0)
    except ValueError:
        base = 1.0
    return base * (1 + random.random() / 2)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:300].decode(errors="replace")
