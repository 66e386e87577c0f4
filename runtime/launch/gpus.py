"""What a machine has of what runs on GPUs need: driver, cards, memory, the packages that go together. Starts nothing
and imports neither torch nor vLLM, which take long.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import yaml

from runtime import suggest
from runtime.errors import MachineError
from runtime.launch.machine import Check

MIN_GPU_GIB = 15.0
"""A card sold as 16 GB: two engines of a small model, and what torch and vLLM hold besides."""
MIN_SHM_GIB = 1.0
"""vLLM's processes and Ray's object store meet in /dev/shm."""
MIN_DISK_GIB = 10.0
"""Compiled kernels, Ray's object store when it spills, and one checkpoint of a small model."""
_QUERY = "--query-gpu=index,uuid,memory.total,name"
_INSTALL = suggest.install(gpu=True)
_ELSEWHERE = "run on a machine with NVIDIA GPUs, or choose rollout.type 'torch' and trainer.device 'cpu'"


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_gib: float


@dataclass(frozen=True)
class Needs:
    """What a bundle asks of one machine. ``pins``: package -> the version it was compiled for."""

    gpus: int
    attention: str
    pins: Mapping[str, str]


def needs_of(bundle: Mapping[str, str]) -> Needs | None:
    """Of a bundle (file name -> text); None when it asks for no GPU."""
    tree: dict[str, Any] = yaml.safe_load(bundle["verl.yaml"])
    pins = json.loads(bundle["liverl.lock"]).get("pins", {}) if "liverl.lock" in bundle else {}
    trainer, policy = tree.get("trainer") or {}, tree.get("actor_rollout_ref") or {}
    if trainer.get("device") != "cuda":
        return None
    rollout = policy.get("rollout") or {}
    apart = int(rollout.get("n_gpus_per_node") or 0) if int(rollout.get("nnodes") or 0) else 0
    override = (policy.get("model") or {}).get("override_config") or {}
    return Needs(
        int(trainer.get("n_gpus_per_node") or 1) + apart,
        str(override.get("attn_implementation") or ""),
        {name: version for name, version in pins.items() if name != "python"},
    )


def check_needs(wanted: Needs, folder: Path) -> list[Check]:
    """Every check for runs below ``folder``."""
    checks = [check_gpus(wanted.gpus), check_shared_memory(), check_disk(folder), check_pins(wanted.pins)]
    if wanted.attention.startswith("flash_attention"):
        checks.append(check_flash_attention())
    return [replace(check, required=True) for check in checks]


def check_bundle(bundle: Mapping[str, str], folder: Path) -> None:
    """Raise ``MachineError`` with everything that this machine lacks of what a bundle (file name -> text) needs."""
    wanted = needs_of(bundle)
    if wanted is None:
        return
    missing = [check for check in check_needs(wanted, folder) if not check.ok]
    if missing:
        raise MachineError(
            "\n".join(f"{check.name}: {check.found} (needed for {check.needed_for})" for check in missing),
            fix="\n".join(dict.fromkeys(check.fix for check in missing)),
        )


def check_gpus(count: int = 1) -> Check:
    """Whether NVIDIA's driver shows ``count`` cards to this process, each with enough memory."""
    name, needed_for = "GPUs", f"trainer.device cuda ({count}, of {MIN_GPU_GIB:.0f} GiB or more each)"
    found = visible_gpus()
    if isinstance(found, str):
        return Check(name, found, False, needed_for, _ELSEWHERE, required=False)
    shown = ", ".join(f"{gpu.name} ({gpu.memory_gib:.0f} GiB)" for gpu in found) or "none that this process may use"
    ok = len([gpu for gpu in found if gpu.memory_gib >= MIN_GPU_GIB]) >= count
    fix = f"{_ELSEWHERE}; CUDA_VISIBLE_DEVICES chooses among several"
    return Check(name, shown, ok, needed_for, fix, required=False)


def visible_gpus() -> Sequence[Gpu] | str:
    """What ``nvidia-smi`` lists and ``CUDA_VISIBLE_DEVICES`` leaves, or why there is nothing to ask."""
    try:
        command = ["nvidia-smi", _QUERY, "--format=csv,noheader,nounits"]
        asked = subprocess.run(command, capture_output=True, timeout=30, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no NVIDIA driver: {error}"
    if asked.returncode != 0:
        said = (asked.stdout + asked.stderr).strip().splitlines() or [f"exit code {asked.returncode}"]
        return f"nvidia-smi: {said[-1]}"
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if chosen is None else [part.strip() for part in chosen.split(",")]
    found = []
    for line in asked.stdout.splitlines():
        index, uuid, memory, name = (part.strip() for part in line.split(",", 3))
        if not memory.replace(".", "", 1).isdigit():
            return f"nvidia-smi gives no memory for {name}: {memory}"
        if wanted is None or index in wanted or any(part and uuid.startswith(part) for part in wanted):
            found.append(Gpu(name, float(memory) / 1024))
    return found


def check_shared_memory(place: Path = Path("/dev/shm")) -> Check:
    try:
        free = shutil.disk_usage(place).free / 2**30
    except OSError:
        free = 0.0
    return Check(
        "shared memory",
        f"{free:.1f} GiB free in {place}",
        free >= MIN_SHM_GIB,
        f"vLLM and Ray (at least {MIN_SHM_GIB:.0f} GiB)",
        "in a container: start it with --shm-size=8g; else: mount -o remount,size=8G /dev/shm",
        required=False,
    )


def check_disk(folder: Path) -> Check:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    return Check(
        "free disk for GPU runs",
        f"{free:.1f} GiB below {existing}",
        free >= MIN_DISK_GIB,
        f"compiled kernels and checkpoints (at least {MIN_DISK_GIB:.0f} GiB)",
        "free some space, or choose another disk with --runs-dir",
        required=False,
    )


def check_pins(pins: Mapping[str, str]) -> Check:
    """Whether the packages that a bundle was compiled for are the ones that are installed."""
    wrong = []
    for name, version in sorted(pins.items()):
        try:
            found = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found = "missing"
        if found != version:
            wrong.append(f"{name} {found} instead of {version}")
    return Check(
        "packages for GPUs",
        ", ".join(wrong) or ", ".join(f"{name} {version}" for name, version in sorted(pins.items())),
        not wrong,
        "training and rollouts on GPUs: the set that goes together",
        _INSTALL,
        required=False,
    )


def check_flash_attention() -> Check:
    there = util.find_spec("flash_attn") is not None
    return Check(
        "Python package flash-attn",
        "installed" if there else "not installed",
        there,
        "trainer.attention flash_attention_2",
        suggest.pip("flash-attn==2.8.3", "--no-build-isolation")
        + "   (compiles for this machine's GPU: an hour, needs nvcc),"
        " or set trainer.attention to sdpa",
        required=False,
    )
