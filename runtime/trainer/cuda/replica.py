"""verl's vLLM replica, whose servers are reached through LiveRL's gate and say what weights they hold.

Upstream: ``verl/workers/rollout/vllm_rollout/vllm_async_server.py``, 0.9.1.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from verl.plugin.platform import get_platform
from verl.workers.rollout.vllm_rollout.utils import VLLM_LORA_INT_ID, VLLM_LORA_NAME, VLLM_LORA_PATH
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.lora.request import LoRARequest

from runtime.files import write_whole
from runtime.rollouter.fingerprint import combined
from runtime.run_paths import RunPaths
from runtime.trainer.cuda import calls, gate
from runtime.trainer.cuda.places import ADDRESS
from runtime.trainer.engine_key import read_key
from runtime.trainer.startup import reached

_CALLS = 4096
"""Calls that a server works on at a time: above verl's own number, which grows with ``max_num_seqs``."""
_kept: list[Any] = []
"""Handles, without which Ray would end the processes again."""


class VllmServer(vLLMHttpServer):  # type: ignore[misc]
    """Implements ``gate.Server`` with verl's own admission. The process begins empty, maybe early; ``become`` makes it
    verl's server."""

    def __init__(self) -> None:
        reached("vLLM's server process")
        self._became: asyncio.Future[None] | None = None

    async def become(self, **keywords: Any) -> None:
        became = self._future()
        try:
            super().__init__(**keywords)
            self.weights = gate.ServedWeights()
            self._places = RunPaths.of_process().engines
            self.key = read_key(self._places)
            became.set_result(None)
        except Exception as error:
            became.set_exception(error)

    async def get_master_address(self) -> Any:
        """What verl asks first. Ray keeps no order among the calls of such an actor: this one may come before
        ``become``."""
        await self._future()
        return super().get_master_address()

    def _future(self) -> asyncio.Future[None]:
        """Settled once this is verl's server, or could not become it."""
        if self._became is None:
            self._became = asyncio.get_running_loop().create_future()
        return self._became

    async def run_server(self, args: Any) -> None:
        """Opened to this machine alone where the run has one, else to its network; either way the key is needed."""
        reached("the order for an engine")
        gate.stand_before(self)
        args.middleware = [*args.middleware, gate.NAME]
        if len(ray.nodes()) == 1:
            self._server_address = "127.0.0.1"
        await super().run_server(args)
        address, port = self.get_server_address()
        host = f"[{address}]" if ":" in address else address
        reached("vLLM's engine")
        write_whole(self._places / f"replica-{self.replica_rank}{ADDRESS}", f"http://{host}:{port}".encode())

    # What the gate asks.

    async def admit(self, request: str) -> bool:
        while True:
            await self.weights.wait()
            if await self._park_until_admitted(request) is not None:
                return False
            if self.weights.settled:
                return True
            self._admitting -= 1

    def landed(self) -> None:
        self._admitting -= 1

    def why_dead(self) -> str:
        return "the engine has died" if self.engine.errored else ""

    async def start(self, request: gate.Request) -> gate.Call:
        return await calls.start(self.engine, request, adapter=await self._adapter())

    async def _adapter(self) -> LoRARequest | None:
        """What stands for the policy where adapters are trained and not merged."""
        if not self.lora_as_adapter or VLLM_LORA_INT_ID not in await self.engine.list_loras():
            return None
        return LoRARequest(lora_name=VLLM_LORA_NAME, lora_int_id=VLLM_LORA_INT_ID, lora_path=VLLM_LORA_PATH)

    # What the adapter next to the trainer asks.

    async def begin_weights(self) -> None:
        self.weights.begin()

    async def settle_weights(self, version: int, *, sent: str, adapter: bool) -> tuple[bool, str]:
        """Whether the workers hold what was sent, and its fingerprint, or why nobody can tell. ``adapter``: the base
        and an adapter on it."""
        shares = await self.engine.collective_rpc("liverl_served", kwargs={"base": True, "adapter": adapter})
        unknown = [share for share in shares if isinstance(share, str)]
        served = unknown[0] if unknown else combined(shares)
        reached("the first weights in the engine")
        return self.weights.settle(version, sent=sent, served=served), served

    def _get_worker_extension_cls(self) -> str:
        return "runtime.trainer.cuda.worker.WorkerExtension"


class VllmReplica(vLLMReplica):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.server_class = _ServerClass()


def start_server(name: str) -> None:
    """The process of a server that verl will ask for, with what verl would give it."""
    platform = get_platform()
    variables = {**dict.fromkeys(platform.ray_noset_envvars(), "1"), **platform.rollout_env_vars()}
    options = {"name": name, "runtime_env": {"env_vars": variables}, "max_concurrency": _CALLS}
    _kept.append(ray.remote(VllmServer).options(**options, get_if_exists=True).remote())


class _ServerClass:
    """In the place of Ray's class of servers: takes the process that was started early, or starts it."""

    def options(self, **options: Any) -> _Server:
        return _Server(options)


class _Server:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def remote(self, **keywords: Any) -> Any:
        server = ray.remote(VllmServer).options(**self._options, get_if_exists=True).remote()
        server.become.remote(**keywords)
        return server
