"""The trainer's platform ``cuda``: verl's own, with vLLM servers that are reached by HTTP.

Imports neither verl nor torch: ``plugin`` is loaded by verl itself, in its own processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from runtime.rollouter.engine import Replica
from runtime.run_paths import RunPaths
from runtime.trainer.cuda import places
from runtime.trainer.cuda.cards import VISIBLE, taken, wanted_by
from runtime.trainer.engine_key import make_key, read_key
from runtime.trainer.environment import runs_here
from runtime.trainer.startup import reached


def vllm_environment(cache: Path) -> Mapping[str, str]:
    """Variables of every process that uses vLLM. Kernels that were compiled once serve all runs that share ``cache``;
    nothing is fetched or reported."""
    kernels = cache / "cuda"
    return {
        "VLLM_CACHE_ROOT": str(kernels / "vllm"),
        "TRITON_CACHE_DIR": str(kernels / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(kernels / "inductor"),
        "CUDA_CACHE_PATH": str(kernels / "driver"),
        # verl switches this cache off where nothing is said: engines that filled it at once used to spoil it. torch
        # writes its parts whole since 2.10.
        "VLLM_DISABLE_COMPILE_CACHE": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }


class CudaPlatform:
    """Implements ``runtime.trainer.platform.Platform``."""

    not_inherited = ("VLLM_API_KEY",)
    """The gate asks for the run's own key."""

    def environment(self, paths: RunPaths) -> Mapping[str, str]:
        return {
            "VERL_USE_EXTERNAL_MODULES": "runtime.trainer.cuda.plugin",
            "VERL_USE_EXTERNAL_PLUGINS": "none",
            "VERL_PLATFORM": "nvidia",
            # verl's own setting allows it.
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",
            # The GPU does the work: more threads of its many processes would only wait for each other.
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            **places.cards(paths.engines),
            **vllm_environment(paths.path.parents[1] / ".cache"),
        }

    def prepare(self, paths: RunPaths) -> None:
        make_key(paths.engines)
        tree = yaml.safe_load(paths.verl_yaml.read_text(encoding="utf-8"))
        # A run that has just started may not use the memory yet that it is going to take.
        others = [places.cards(RunPaths(run).engines).get(VISIBLE, "") for _, run, alive in runs_here() if alive]
        by_others = [place for one in others for place in one.split(",")]
        places.keep_cards(paths.engines, taken(wanted_by(tree), by_others=by_others))

    def replicas(self) -> Mapping[str, Replica]:
        """By HTTP. verl's client costs twice the time for each call, and its balancer is a process that first imports
        verl."""
        from runtime.trainer.cuda.engine import GatedEngine

        reached("the agent loop")
        engines = RunPaths.of_process().engines
        key = read_key(engines)
        return {name: GatedEngine(url, api_key=key) for name, url in places.addresses(engines).items()}


CUDA = CudaPlatform()
