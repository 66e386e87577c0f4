"""verl's rollout replica ``liverl_cpu``: N engine servers of one policy, and the adapter that brings them new weights.

One verl replica owns all engine servers of its trainer rank, because verl derives the number of replicas from the
number of trainer ranks and a laptop has one; the router (``runtime.trainer.router``) shows each server to verl's
client as a server of its own. Knows nothing of what is generated. Upstream:
``verl/workers/rollout/{replica,base}.py``, 0.9.1.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from verl.workers.rollout import base as rollout_base
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

from runtime.config import TorchRollout, load_runtime_config
from runtime.laptop.engine.server import EngineServer
from runtime.laptop.engine.socket_replica import engine_socket, write_address
from runtime.laptop.engine.weights import Architecture, state_fingerprint
from runtime.run_paths import RunPaths
from runtime.telemetry.waits import overdue, waiting
from runtime.trainer.engine_key import read_key
from runtime.trainer.router import ADDRESS_SCHEME
from runtime.trainer.rows import RowWriter
from runtime.trainer.sessions import WeightNews
from runtime.trainer.trained import keep_trained

ROLLOUT_NAME = "liverl_cpu"

_ATTEMPTS = 2
_OWNER = "weight-sync"
_SYNC_SEC = 600.0
"""One server's copy of a small policy takes milliseconds; the rest is patience with a busy machine."""


class WeightMismatch(RuntimeError):
    """A replica serves other weights than the trainer sent, twice in a row: going on would train on a policy nobody
    has."""


def server_name(replica_rank: int, index: int) -> str:
    """Ray name of one engine server."""
    return f"liverl_engine_{replica_rank}_{index}"


def server_names(replica_rank: int) -> list[str]:
    return [server_name(replica_rank, index) for index in range(_rollout().replicas)]


def _rollout() -> Any:
    return load_runtime_config(RunPaths.of_process().runtime_json).rollout


class CpuReplica(RolloutReplica):  # type: ignore[misc]
    """Starts the engine servers; every control call of the base class reaches all of them through ``self.servers``."""

    async def launch_servers(self) -> None:
        config = load_runtime_config(RunPaths.of_process().runtime_json)
        rollout = config.rollout
        assert isinstance(rollout, TorchRollout), "the platform of this device serves no other engine"
        names = server_names(self.replica_rank)
        actor = ray.remote(EngineServer)
        # Where verl's task runner is: the agent loop in it reaches them on sockets of its own machine.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.servers = [
            # They reserve nothing: pinned to a node whose slots are taken, they would wait for ever.
            actor.options(name=name, num_cpus=0, max_concurrency=self.max_concurrency, scheduling_strategy=here).remote(
                str(Path(self.model_config.path).expanduser()),
                slots=rollout.slots,
                max_len=rollout.prompt_length + rollout.response_length,
                seed=config.seed * 1000 + self.replica_rank * 100 + index,
                import_path=rollout.import_path,
                kwargs=rollout.kwargs,
                routed=bool(self.config.enable_rollout_routing_replay),
            )
            for index, name in enumerate(names)
        ]
        for name, server in zip(names, self.servers, strict=True):
            await server.listen.remote(str(engine_socket(name)))
            if rollout.agent_loop.workers > 1 and len(ray.nodes()) > 1:
                await self._open_to_other_machines(name, server)
        self._server_handle = self.servers[0]
        self._server_address = ADDRESS_SCHEME + ",".join(names)

    async def _open_to_other_machines(self, name: str, server: Any) -> None:
        """For agent-loop workers there."""
        engines, host = RunPaths.of_process().engines, ray.util.get_node_ip_address()
        key = read_key(engines)
        write_address(engines, name, host=host, port=await server.listen_tcp.remote(host, key))

    def rollout_worker_use_gpu(self) -> bool:
        return False


class CpuServerAdapter(BaseRollout):  # type: ignore[misc]
    """Next to the trainer (or in a CheckpointEngineWorker): sends weights, compares fingerprints, then lets
    generation go on."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1) -> None:
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank
        self.is_leader_rank = True  # CheckpointEngineWorker reads it
        self._rows = RowWriter(RunPaths.of_process().rows_file("weights"))
        self._news = WeightNews()
        config_json = Path(self.model_config.path).expanduser() / "config.json"
        self._architecture = Architecture.from_config(json.loads(config_json.read_bytes()))
        self._base: dict[str, torch.Tensor] = {}

    async def resume(self, tags: list[str]) -> None:
        """Nothing to bring back: on CPU weights and caches are never given up."""

    async def release(self) -> None:
        """Nothing to give up, see ``resume``."""

    async def update_weights(
        self,
        weights: Iterator[tuple[str, torch.Tensor]] | AsyncIterator[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        peft_config: Mapping[str, Any] | None = None,
        base_sync_done: bool = True,
        **_ignored: Any,
    ) -> None:
        """Bring version ``global_steps`` to every server. Raises ``WeightMismatch`` when a fingerprint differs twice.

        The servers' gates open only after every fingerprint equals the trainer's. Where adapters are trained, verl
        sends the base once, then the adapter alone; served and compared is the policy that both make.
        """
        from verl.workers.rollout.utils import ensure_async_iterator

        if wire_format != "named_tensors":
            raise ValueError(f"the CPU adapter takes named tensors, not {wire_format}")
        if global_steps is None:
            raise ValueError("weights without a version cannot be told apart: verl passed no global_steps")
        began = time.monotonic()
        self._news.next()
        # A copy: in hybrid mode these tensors alias the optimizer's own parameters.
        state = {
            name.replace(".base_layer.", "."): tensor.detach().to("cpu", copy=True)
            async for name, tensor in ensure_async_iterator(weights)
        }
        if peft_config and not base_sync_done:
            self._base = state
            return
        if peft_config:
            state = with_adapter(self._base, state, peft_config)
        # A tied model's second name for its embedding is no parameter of its own.
        names = self._architecture.parameters().keys()
        state = {name: tensor for name, tensor in state.items() if name in names}
        wanted = state_fingerprint(self._architecture, state)
        servers = {name: ray.get_actor(name) for name in server_names(self.replica_rank)}
        reference = ray.put(state)
        behind, mismatches = dict(servers), 0
        for _ in range(_ATTEMPTS):
            calls = {
                name: server.load_weights.remote(reference, version=global_steps) for name, server in behind.items()
            }
            served = {name: await _taken(name, call, version=global_steps) for name, call in calls.items()}
            behind = {name: servers[name] for name, print_ in served.items() if print_ != wanted}
            mismatches += len(behind)
            if not behind:
                break
        else:
            raise WeightMismatch(
                f"weight version {global_steps}: {', '.join(sorted(behind))} serve(s) other weights than the trainer's "
                f"{wanted} after {_ATTEMPTS} attempts: {served}"
            )
        for server in servers.values():
            await server.open_gate.remote()
        self._news.settled(global_steps, wanted)
        self._rows.write(
            global_steps,
            {
                "weights/version": global_steps,
                "weights/replicas_verified": len(servers),
                "weights/mismatches": mismatches,
                "weights/sync_s": time.monotonic() - began,
                "weights/fingerprint": wanted,
            },
        )
        if self.replica_rank == 0:
            await keep_trained(global_steps)


def with_adapter(
    base: Mapping[str, torch.Tensor], adapter: Mapping[str, torch.Tensor], settings: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The policy that ``base`` and an adapter make, under peft's names and settings; nothing of ``base`` is changed.
    Raises ``ValueError`` when one of the two is not whole."""
    scale, second = settings["lora_alpha"] / settings["r"], ".lora_B.weight"
    whole = dict(base)
    changed = {name.removeprefix("base_model.model.").removesuffix(second): name for name in adapter if second in name}
    if not changed or 2 * len(changed) != len(adapter):
        raise ValueError(f"an adapter of {len(adapter)} tensors, {len(changed)} of them second factors")
    for module, name in changed.items():
        if (weight := whole.get(f"{module}.weight")) is None:
            raise ValueError(f"the adapter changes {module}, which the base does not have")
        first = adapter[name.removesuffix(second) + ".lora_A.weight"]
        whole[f"{module}.weight"] = weight + scale * (adapter[name].float() @ first.float())
    return whole


async def _taken(name: str, call: Any, *, version: int) -> str:
    """The fingerprint that this server answers with. Raises ``WeightMismatch`` when it takes too long."""
    what = f"replica {name} to take version {version}"
    with waiting(RunPaths.of_process().waits, owner=_OWNER, what=what, deadline_sec=_SYNC_SEC):
        try:
            fingerprint: str = await asyncio.wait_for(call, _SYNC_SEC)
        except TimeoutError as error:
            raise WeightMismatch(overdue(what, owner=_OWNER, deadline_sec=_SYNC_SEC)) from error
        return fingerprint


def register() -> None:
    """Make ``rollout.name=liverl_cpu`` known to verl."""
    RolloutReplicaRegistry.register(ROLLOUT_NAME, lambda: CpuReplica)
    # The adapter table has no public register function.
    rollout_base._ROLLOUT_REGISTRY[(ROLLOUT_NAME, "async")] = f"{__name__}.CpuServerAdapter"
