"""One ECS task per sandbox: run, described until it runs, spoken to through the agent in it, stopped.

A task ends itself after its time to live, also when we have died.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from runtime.addresses import web_address
from runtime.config import EcsCluster
from runtime.errors import MachineError, Termination, TrialError
from runtime.oci.reference import mirrored
from runtime.sandboxes import own_image
from runtime.sandboxes.base import Capabilities, ExecResult, SandboxRequest
from runtime.sandboxes.box import check_lower
from runtime.sandboxes.ecs import definition
from runtime.sandboxes.remote import PROXY_HOST, LinkCut, RemoteSandbox

log = logging.getLogger(__name__)

POLL_SEC = 1.0
CALLS = 16
"""Requests to AWS in flight at once; they block, so each holds a thread."""
_GRACE_SEC = 10.0
_FROM_OUTSIDE = ("SpotInterruption", "TerminationNotice", "UserInitiated", "ServiceSchedulerInitiated")
_NO_ROOM = ("RESOURCE:", "AGENT", "Capacity is unavailable")

Task = Mapping[str, Any]
Address = Callable[[Task], Awaitable[tuple[str, int] | None]]


def death(task: Task | None, name: str) -> TrialError | None:
    """The failure that ended a task (None given: ECS has forgotten it), or None while it lives."""
    if task is None:
        return TrialError(Termination.SANDBOX_LOST, f"sandbox {name}: its task is gone", host_fault=True)
    if task.get("lastStatus") not in ("STOPPED", "DEPROVISIONING", "STOPPING", "DEACTIVATING"):
        return None
    containers = task.get("containers") or ()
    reasons = [str(one["reason"]) for one in containers if one.get("reason")]
    why = "; ".join([str(task.get("stoppedReason") or task.get("stopCode") or "stopped"), *reasons])
    if any("OutOfMemory" in reason for reason in reasons):
        return TrialError(Termination.OUT_OF_MEMORY, f"sandbox {name}: {why}")
    ours = task.get("stopCode") in _FROM_OUTSIDE
    return TrialError(Termination.SANDBOX_LOST, f"sandbox {name}: its task ended: {why}", host_fault=ours)


class EcsSandbox(RemoteSandbox):
    alone = True

    def __init__(
        self, request: SandboxRequest, provider: EcsProvider, arn: str, token: str, proxy_url: str | None
    ) -> None:
        super().__init__(request, env={}, proxy_url=proxy_url)
        self.arn = arn
        self.address: tuple[str, int] = ("", 0)
        self._provider = provider
        self._token = token

    async def _call(self, command: Sequence[str], stdin: bytes, *, timeout_sec: float) -> ExecResult:
        import aiohttp

        order = json.dumps({"command": list(command), "timeout": timeout_sec}).encode() + b"\n"
        url = f"{web_address(*self.address)}/run"
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            async with (
                asyncio.timeout(timeout_sec + _GRACE_SEC),
                self._provider.http().post(url, data=io.BytesIO(order + stdin), headers=headers) as answer,
            ):
                if answer.status != 200:
                    raise LinkCut(f"the agent in the box answers {answer.status}")
                line, _, output = (await answer.read()).partition(b"\n")
            head = json.loads(line)
            code, timed_out, size = int(head["exit_code"]), bool(head["timed_out"]), int(head["stdout"])
        except (aiohttp.ClientError, ConnectionError, ValueError, KeyError, TypeError) as error:
            ended = death(await self._provider.describe(self.arn), self.name)
            if ended is not None:
                raise ended from error
            raise LinkCut(f"no answer from the agent in the box: {error!r}") from error
        if timed_out:
            raise TimeoutError
        return ExecResult(code, output[:size], output[size:])

    async def _end(self) -> None:
        self._provider.forget(self)
        await self._provider.stop_task(self.arn)


class EcsProvider:
    """Implements ``SandboxProvider``. address: where a running task's agent listens; None: ask again later;
    mirrors: registry -> the one that is asked in its place for images of tasks."""

    def __init__(
        self,
        settings: EcsCluster,
        *,
        run: str,
        address: Address | None = None,
        mirrors: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._settings = settings
        self._mirrors = dict(mirrors)
        self._labels = {
            "liverl/run": run[:256],
            "liverl/owner": f"{socket.gethostname()}-{os.getpid()}"[:256],
            "liverl/ttl": str(settings.ttl_sec),
        }
        self._address = address or self._private_address
        self._definitions: dict[Any, asyncio.Task[str]] = {}
        self._threads = ThreadPoolExecutor(CALLS, thread_name_prefix="ecs")
        self._client: Any = None
        self._session: Any = None
        self._running: set[EcsSandbox] = set()

    @property
    def capabilities(self) -> Capabilities:
        """The network is what the security groups allow, which nothing here proves."""
        return Capabilities(
            isolation="ecs",
            network_off=False,
            fresh_filesystem=True,
            memory_limit=True,
            cpu_limit=True,
            second_user=True,
            task_images=True,
            made_by=f"ecs+{self._settings.launch_type.lower()}",
        )

    @property
    def counts(self) -> Mapping[str, float]:
        return {}

    async def start(self, request: SandboxRequest) -> EcsSandbox:
        check_lower(request, images=True)
        proxy_url = self._proxy_url(request)
        token = secrets.token_urlsafe(24)
        tokens = {definition.CONTAINER: token}
        changed = request.root is not None and await asyncio.to_thread(own_image.is_changed, request)
        if request.root is not None:
            tokens[definition.RECEIVER] = secrets.token_urlsafe(24)
        try:
            arn = await self._run(await self._definition(request, changed=changed), tokens, request.name)
        except ValueError as error:
            raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {error}") from error
        sandbox = EcsSandbox(request, self, arn, token, proxy_url)
        self._running.add(sandbox)
        try:
            if request.root is not None:
                other = replace(request, root=None)
                receiver = EcsSandbox(other, self, arn, tokens[definition.RECEIVER], None)
                async with asyncio.timeout(self._settings.startup_deadline_sec):
                    await self._ready(receiver, early=True)
                await receiver.receive(request, changed=changed)
            async with asyncio.timeout(self._settings.startup_deadline_sec):
                await self._ready(sandbox)
            # A volume of ECS is a folder, and may begin with what the image has there: so it is taken out of the box.
            folders, files = own_image.hidden(request)
            await sandbox.erase([*folders, *files])
            await sandbox.furnish(request)
        except BaseException as error:
            await asyncio.shield(sandbox.stop())
            if isinstance(error, TimeoutError):
                why = f"no running task within {self._settings.startup_deadline_sec:g} s"
                raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {why}") from error
            if isinstance(error, TrialError) and error.termination is Termination.SANDBOX_LOST:
                raise TrialError(Termination.ENV_SETUP_FAILED, str(error)) from error
            raise
        return sandbox

    def forget(self, sandbox: EcsSandbox) -> None:
        self._running.discard(sandbox)

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._running)))
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._threads.shutdown(wait=False)

    def http(self) -> Any:
        import aiohttp

        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        return self._session

    async def describe(self, arn: str) -> Task | None:
        """None: unknown to ECS (which AWS reports as a failure MISSING, or as nothing)."""
        answer = await self._aws("describe_tasks", cluster=self._settings.cluster, tasks=[arn])
        return next(iter(answer.get("tasks") or ()), None)

    async def stop_task(self, arn: str) -> None:
        """Also of a task that has ended already."""
        try:
            await self._aws("stop_task", cluster=self._settings.cluster, task=arn, reason="the trial is over")
        except TrialError as error:
            task = await self.describe(arn)
            if task is not None and task.get("lastStatus") != "STOPPED":
                raise error

    async def _aws(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """One request, repeated by botocore where AWS throttles or falters. Raises ``TrialError``, ``MachineError``."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        def call() -> dict[str, Any]:
            if self._client is None:
                import boto3
                from botocore.config import Config

                config = Config(retries={"mode": "adaptive", "max_attempts": 8}, max_pool_connections=CALLS)
                self._client = boto3.client(
                    "ecs", region_name=self._settings.region, endpoint_url=self._settings.endpoint_url, config=config
                )
            answer: dict[str, Any] = getattr(self._client, operation)(**arguments)
            return answer

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except NoCredentialsError as error:
            raise MachineError(f"ECS: {error}", fix="aws configure, or give this machine a role") from error
        except (BotoCoreError, ClientError) as error:
            raise TrialError(Termination.ENV_SETUP_FAILED, f"ECS {operation}: {error}") from error

    async def _definition(self, request: SandboxRequest, *, changed: bool) -> str:
        """The task definition for this image and size; registered once, also across runs."""
        own: dict[str, Any] = {}
        if request.root is not None:
            image = mirrored(request.root.reference, self._mirrors)
            own = {"image": image, "brought": tuple(own_image.places(request)), "work": request.workdir * changed}
        key = (request.memory_mib, *own.values())
        known = self._definitions.get(key)
        if known is None or (known.done() and known.exception() is not None):
            asked = definition.definition(self._settings, request.memory_mib, **own)
            known = self._definitions[key] = asyncio.ensure_future(self._register(asked))
        return await asyncio.shield(known)

    async def _register(self, asked: dict[str, Any]) -> str:
        listed = await self._aws(
            "list_task_definitions", familyPrefix=asked["family"], status="ACTIVE", sort="DESC", maxResults=1
        )
        if listed["taskDefinitionArns"]:
            return str(listed["taskDefinitionArns"][0])
        made = await self._aws("register_task_definition", **asked)
        return str(made["taskDefinition"]["taskDefinitionArn"])

    async def _run(self, definition_arn: str, tokens: Mapping[str, str], name: str) -> str:
        """Run one task; waits for room. What an unanswered request had made is found again by its nonce."""
        nonce = f"liverl-{secrets.token_hex(12)}"
        asked = definition.task(
            self._settings, definition_arn=definition_arn, nonce=nonce, tokens=tokens, labels=self._labels
        )
        deadline = asyncio.get_running_loop().time() + self._settings.startup_deadline_sec
        while True:
            try:
                answer = await self._aws("run_task", **asked)
            except TrialError:
                found = await self._aws("list_tasks", cluster=self._settings.cluster, startedBy=nonce)
                if not found["taskArns"]:
                    raise
                return str(found["taskArns"][0])
            if answer.get("tasks"):
                return str(answer["tasks"][0]["taskArn"])
            why = "; ".join(str(failure.get("reason")) for failure in answer.get("failures") or ())
            room = asyncio.get_running_loop().time() < deadline and any(word in why for word in _NO_ROOM)
            if not room:
                raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {name}: ECS runs no task: {why}")
            await asyncio.sleep(POLL_SEC)

    async def _ready(self, sandbox: EcsSandbox, *, early: bool = False) -> None:
        """Until the agent in the task answers. early: that of a container which is to end before the task counts as
        running."""
        while True:
            task = await self.describe(sandbox.arn)
            ended = death(task, sandbox.name)
            if ended is not None:
                raise ended
            there = task is not None and (early or task.get("lastStatus") == "RUNNING")
            address = await self._address(task) if task is not None and there else None
            if address is not None:
                sandbox.address = address
                try:
                    await sandbox._call(["true"], b"", timeout_sec=5)
                except (LinkCut, TimeoutError):
                    pass
                else:
                    return
            await asyncio.sleep(POLL_SEC)

    async def _private_address(self, task: Task) -> tuple[str, int] | None:
        for attachment in task.get("attachments") or ():
            for detail in attachment.get("details") or ():
                if detail.get("name") == "privateIPv4Address":
                    return str(detail["value"]), self._settings.port
        return None

    def _proxy_url(self, request: SandboxRequest) -> str | None:
        if request.forward is None:
            return None
        host = self._settings.proxy_host or os.environ.get(PROXY_HOST)
        if not host:
            why = f"tasks cannot reach the model proxy: environment.ecs.proxy_host is not set, nor is {PROXY_HOST}"
            raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {why}")
        return web_address(host, request.forward[1])
