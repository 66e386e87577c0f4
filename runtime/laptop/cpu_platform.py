"""The trainer's platform ``cpu``: verl on a machine without an accelerator, with the CPU engine as its replicas.

Imports neither verl nor torch: ``verl_cpu`` is loaded by verl itself, in its own processes.
"""

from __future__ import annotations

from collections.abc import Mapping

from runtime.rollouter.engine import Replica
from runtime.run_paths import RunPaths

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
        """Nothing: engine servers find their sockets by name."""

    def replicas(self) -> Mapping[str, Replica]:
        """Our own replicas, called on their sockets."""
        from runtime.laptop.engine.socket_replica import SocketReplica, engine_sockets

        return {name: SocketReplica(path) for name, path in engine_sockets().items()}


CPU = CpuPlatform()
