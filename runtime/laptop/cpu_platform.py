"""The trainer's platform ``cpu``: verl on a machine without an accelerator, with the CPU engine as its replicas.

Imports neither verl nor torch: ``verl_cpu`` is loaded by verl itself, in its own processes.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from runtime.errors import MachineError
from runtime.rollouter.engine import Replica
from runtime.run_paths import RunPaths
from runtime.trainer.engine_key import make_key, read_key

ROLLOUT_NAME = "liverl_cpu"


class CpuPlatform:
    """Implements ``runtime.trainer.platform.Platform``."""

    not_inherited = ("CUDA_VISIBLE_DEVICES",)
    """Ray compares a list of GPUs with the "GPU" that the trainer's place on the CPU is called."""

    def environment(self, paths: RunPaths) -> Mapping[str, str]:
        del paths
        return {
            # The CPU platform and the replica; VERL_ENGINE_DEVICE: verl registers its FSDP engines under cuda alone.
            "VERL_USE_EXTERNAL_MODULES": "runtime.laptop.verl_cpu",
            "VERL_USE_EXTERNAL_PLUGINS": "none",
            "VERL_PLATFORM": "cpu",
            "VERL_ENGINE_DEVICE": "cuda",
            # One thread per process, and no spinning while waiting: all of them share few cores.
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }

    def prepare(self, paths: RunPaths) -> None:
        """On the trainer's machine engine servers are found by the names of their sockets; from others, by the run's
        key."""
        make_key(paths.engines)

    def replicas(self) -> Mapping[str, Replica]:
        """Our own replicas, called on their sockets; from another machine than theirs, over its network."""
        from runtime.laptop.engine.socket_replica import SocketReplica, engine_addresses, engine_sockets

        if sockets := engine_sockets():
            return {name: SocketReplica(path) for name, path in sockets.items()}
        engines = RunPaths.of_process().engines
        if not (addresses := engine_addresses(engines)):
            raise MachineError(
                f"no engine of the run is reached from {socket.gethostname()}: they listen for other machines only "
                "where there are several when they start",
                fix="start the run when all machines have joined its Ray",
            )
        key = read_key(engines)
        return {name: SocketReplica(address, key=key) for name, address in addresses.items()}


CPU = CpuPlatform()
