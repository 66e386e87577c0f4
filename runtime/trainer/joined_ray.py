"""What a trainer on a Ray that somebody else started must bring along: its variables as Ray's ``runtime_env``.

A Ray of our own hands the trainer's environment on to every worker by inheritance; workers of a running Ray inherit
that of their node. Only variables that LiveRL sets travel: Ray shows them on its dashboard, so secrets are left to the
nodes' own environment. Knows no manifest and starts nothing but one question to the cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.config.rollout import AgentLoop
from runtime.errors import MachineError

ADDRESS = "LIVERL_RAY_ADDRESS"
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where a driver finds what its job was submitted with (Ray's ``JobConfig`` as JSON)."""
_NODES_OWN = frozenset({"TMPDIR", "RAY_TMPDIR"})
"""Folders that exist on the trainer's machine alone."""
_QUESTION = """import json, sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print(json.dumps(ray.cluster_resources()))
"""
_ANSWER_SEC = 120.0


def job_config(own: Mapping[str, str], *, inherited: Mapping[str, str]) -> str:
    """The value of ``JOB_CONFIG`` for the trainer. ``own``: the variables that LiveRL sets for it."""
    travelling = {name: value for name, value in own.items() if name not in _NODES_OWN}
    try:
        submitted: dict[str, Any] = json.loads(inherited.get(JOB_CONFIG) or "{}")
    except ValueError:
        submitted = {}
    # Ray counts the driver to the job it was submitted as by its metadata.
    return json.dumps({"runtime_env": {"env_vars": travelling}, "metadata": submitted.get("metadata") or {}})


def check_cluster(
    trainer: Mapping[str, Any], *, rollout: Mapping[str, Any], agent_loop: AgentLoop | None = None
) -> None:
    """Raise ``MachineError`` when the running Ray can never place all ranks, or agent-loop workers: verl would wait for
    ever.

    ``trainer`` and ``rollout``: those parts of ``verl.yaml``. Nothing is asked when the trainer starts a Ray of its
    own."""
    address = os.environ.get(ADDRESS)
    if not address:
        return
    command = [sys.executable, "-c", _QUESTION, address]
    try:
        asked = subprocess.run(command, cwd=Path("/"), capture_output=True, text=True, timeout=_ANSWER_SEC, check=False)
    except subprocess.TimeoutExpired:
        raise MachineError(f"the Ray cluster at {address} does not answer", fix="ray status") from None
    if asked.returncode != 0:
        said = (asked.stderr.strip().splitlines() or ["no words"])[-1]
        fix = f"ray status --address {address}; where Ray asks for its token, set RAY_AUTH_TOKEN or RAY_AUTH_MODE"
        raise MachineError(f"the Ray cluster at {address} cannot be joined: {said}", fix=fix)
    resources = json.loads(asked.stdout.splitlines()[-1])
    offered = resources.get("GPU", 0.0)
    needed = int(trainer.get("nnodes") or 1) * int(trainer.get("n_gpus_per_node") or 0)
    apart = int(rollout.get("nnodes") or 0) * int(rollout.get("n_gpus_per_node") or 0)
    if offered < needed + apart:
        cpu = trainer.get("device") == "cpu"
        why = "; verl places a rank on a GPU, on a CPU cluster too, where it is only a token" if cpu else ""
        raise MachineError(
            f"the Ray cluster at {address} has {offered:g} GPUs, but the trainer needs {needed}"
            f"{f' and its rollouts {apart}' if apart else ''}{why}",
            fix=f"start one of its nodes with: ray start ... --num-gpus={needed + apart}",
        )
    if agent_loop is not None and agent_loop.workers > 1 and agent_loop.resource is not None:
        there = resources.get(agent_loop.resource, 0.0)
        if there < agent_loop.workers:
            raise MachineError(
                f"the Ray cluster at {address} has {there:g} of the resource {agent_loop.resource!r}, but "
                f"{agent_loop.workers} agent-loop workers take one each (rollout.agent_loop)",
                fix=f"start nodes of it with: ray start ... --resources='{{\"{agent_loop.resource}\": N}}'",
            )
