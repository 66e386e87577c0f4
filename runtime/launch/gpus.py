"""What a machine has of what runs on GPUs need: driver, cards, memory, the packages that go together. Starts nothing
and imports neither torch nor vLLM, which take long.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import yaml

from runtime import suggest
from runtime.errors import MachineError
from runtime.launch.machine import Check
from runtime.trainer import joined_ray
from runtime.trainer.cuda.cards import MIN_GPU_GIB, Card, Wanted, visible, wanted_by

MIN_SHM_GIB = 1.0
"""vLLM's processes and Ray's object store meet in /dev/shm."""
MIN_DISK_GIB = 10.0
"""Compiled kernels, Ray's object store when it spills, and one checkpoint of a small model."""
_ONE = Wanted(1)
_INSTALL = suggest.install(gpu=True)
_ELSEWHERE = "run on a machine with NVIDIA GPUs, or choose rollout.type 'torch' and trainer.device 'cpu'"


@dataclass(frozen=True)
class Needs:
    """What a bundle asks of one machine. ``pins``: package -> the version it was compiled for."""

    gpus: Wanted
    attention: str
    pins: Mapping[str, str]


def needs_of(bundle: Mapping[str, str]) -> Needs | None:
    """Of a bundle (file name -> text); None when it asks for no GPU."""
    tree: dict[str, Any] = yaml.safe_load(bundle["verl.yaml"])
    pins = json.loads(bundle["liverl.lock"]).get("pins", {}) if "liverl.lock" in bundle else {}
    trainer, policy = tree.get("trainer") or {}, tree.get("actor_rollout_ref") or {}
    if trainer.get("device") != "cuda":
        return None
    override = (policy.get("model") or {}).get("override_config") or {}
    return Needs(
        wanted_by(tree),
        str(override.get("attn_implementation") or ""),
        {name: version for name, version in pins.items() if name != "python"},
    )


def check_needs(wanted: Needs, folder: Path) -> list[Check]:
    """Every check for runs below ``folder``."""
    # A Ray that runs already is asked for its own GPUs when the trainer starts.
    cards = [] if os.environ.get(joined_ray.ADDRESS) else [check_gpus(wanted.gpus)]
    checks = [*cards, check_shared_memory(), check_disk(folder), check_pins(wanted.pins)]
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


def check_gpus(wanted: Wanted = _ONE) -> Check:
    """Whether NVIDIA's driver shows enough cards to this process, each with enough memory that nobody uses."""
    name = "GPUs"
    free = f", {wanted.share:.0%} of it free for vLLM" if wanted.share else ""
    needed_for = f"trainer.device cuda ({wanted.count}, of {MIN_GPU_GIB:.0f} GiB or more each{free})"
    found = visible()
    if isinstance(found, str):
        return Check(name, found, False, needed_for, _ELSEWHERE, required=False)
    shown = ", ".join(f"{card.place}: {card.name} ({_memory(card)})" for card in found)
    fit = [card for card in found if wanted.fits(card)]
    fix = f"{_ELSEWHERE}; CUDA_VISIBLE_DEVICES chooses among several"
    if len(fit) < wanted.count <= len([card for card in found if card.memory_gib >= MIN_GPU_GIB]):
        fix = "wait until others have ended (`nvidia-smi`), or lower rollout.gpu_memory_utilization"
    return Check(
        name, shown or "none that this process may use", len(fit) >= wanted.count, needed_for, fix, required=False
    )


def _memory(card: Card) -> str:
    used = card.memory_gib - card.free_gib
    return f"{card.memory_gib:.0f} GiB" + (f", {used:.0f} of them in use" if used >= 1 else "")


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
