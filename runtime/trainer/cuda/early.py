"""Begins what takes long before its turn comes: vLLM's import, and the server processes, while the trainer's model is
still on its way.

Only a matter of time: where it fails, the same is done later by whoever needs it. Knows nothing of weights or calls.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import ray
import yaml

from runtime.run_paths import RunPaths
from runtime.trainer.startup import reached

logger = logging.getLogger(__name__)

_TRAINER = "verl.trainer.ppo.v1"
"""What the task runner alone imports."""
_PATIENCE_SEC = 120.0
_POLL_SEC = 0.25
_warming: list[subprocess.Popen[bytes]] = []


def begin() -> None:
    """Called in every process of verl, while verl is being imported."""
    if "verl.trainer.main_ppo" in sys.orig_argv:
        _warm_up()
        threading.Thread(target=_say_ray, name="say-ray", daemon=True).start()
    elif ray.is_initialized():
        threading.Thread(target=_start_servers, name="early-servers", daemon=True).start()


def _warm_up() -> None:
    """In the driver: one process reads vLLM's files and looks at the model, so that later ones find both in caches."""
    paths = RunPaths.of_process()
    command = [sys.executable, "-m", "runtime.trainer.cuda.warm_up", str(paths.policy)]
    with (paths.logs / "warm-up.log").open("ab") as log:
        _warming.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT))


def _say_ray() -> None:
    deadline = time.monotonic() + _PATIENCE_SEC
    while time.monotonic() < deadline:
        if ray.is_initialized():
            return reached("Ray")
        time.sleep(_POLL_SEC)


def _start_servers() -> None:
    try:
        if not _imported(_TRAINER):
            return  # not the task runner
        names = server_names(RunPaths.of_process())
        if names:
            from runtime.trainer.cuda.replica import start_server

            for name in names:
                start_server(name)
    except Exception:
        logger.exception("vLLM's servers could not be started early")


def server_names(paths: RunPaths) -> list[str]:
    """verl's names of the servers, where all of them are on this machine: on the trainer's GPUs, or on their own."""
    tree = yaml.safe_load(paths.verl_yaml.read_text(encoding="utf-8"))
    trainer, policy = tree["trainer"], tree["actor_rollout_ref"]
    rollout = policy["rollout"]
    if max(trainer["nnodes"], rollout["nnodes"]) > 1 or len(ray.nodes()) > 1:
        return []
    gpus = (trainer if policy.get("hybrid_engine", True) else rollout)["n_gpus_per_node"]
    replicas = gpus // rollout["tensor_model_parallel_size"]
    return [f"vllm_server_{replica}_0" for replica in range(replicas)]


def _imported(name: str) -> bool:
    """Wait until another thread has imported this module; False if none begins to."""
    deadline = time.monotonic() + _PATIENCE_SEC
    while time.monotonic() < deadline:
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            return True
        time.sleep(_POLL_SEC)
    return False
