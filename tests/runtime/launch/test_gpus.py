"""What a bundle for GPUs needs of a machine is asked of the machine before anything is made, all of it at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from compiler import compile_in_memory
from runtime.errors import MachineError
from runtime.launch import gpus
from runtime.launch.gpus import check_bundle, check_gpus, check_needs, check_pins, needs_of
from runtime.trainer.cuda.cards import Wanted, taken
from tests.compiler.golden_cases import spec_path

LISTED = """0, GPU-aaaa, 143771, 143000, NVIDIA H200
1, GPU-bbbb, 23034, 9000, NVIDIA L4
2, GPU-cccc, 8000, 8000, Tesla T4 of old"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one program of the machine: what NVIDIA's would say."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    says(program, LISTED)
    return program


def says(program: Path, text: str, *, code: int = 0) -> None:
    program.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
    program.chmod(0o755)


@cache
def compiled(name: str) -> Mapping[str, str]:
    return compile_in_memory(spec_path(name), target="local").files


def bundle(name: str = "one-gpu", **pins: str) -> dict[str, str]:
    files = dict(compiled(name))
    if pins:
        files["liverl.lock"] = json.dumps({"pins": pins})
    return files


def test_a_bundle_says_what_it_needs() -> None:
    assert needs_of(bundle("quickstart")) is None
    one = needs_of(bundle())
    assert one is not None and one.gpus == Wanted(1, 0.4) and one.attention == "sdpa" and one.pins["vllm"] == "0.24.0"
    eight = needs_of(bundle("dense-8gpu"))
    two = needs_of(bundle("moe-async"))
    assert two is not None and two.gpus.count == 16, "trainer and rollouts apart, all on this machine"
    assert eight is not None and eight.gpus == Wanted(8, 0.7) and eight.attention == "flash_attention_2"


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError) as raised:
        check_bundle(bundle("dense-8gpu", vllm="0.0.1", verl="0.0.2"), tmp_path / "runs")
    assert "no NVIDIA driver" in str(raised.value) and "vllm missing instead of 0.0.1" in str(raised.value)
    assert "flash-attn: not installed" in str(raised.value)
    assert "make install-gpu" in raised.value.fix and "rollout.type 'torch'" in raised.value.fix
    assert not (tmp_path / "runs").exists()
    check_bundle(bundle("quickstart"), tmp_path)


@pytest.mark.parametrize(
    ("visible", "count", "ok"),
    [
        (None, 1, True),
        (None, 2, True),
        (None, 3, False),  # the third is too small
        ("0", 2, False),  # the others belong to somebody else
        ("1,0", 2, True),
        ("GPU-bbbb", 1, True),
        ("", 1, False),
        ("2", 1, False),
    ],
)
def test_only_cards_that_this_process_may_use_count(
    driver: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, ok: bool
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert check_gpus(Wanted(count)).ok is ok, check_gpus(Wanted(count))


def test_memory_that_somebody_uses_is_not_there(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM does not start where less is free than it is told to take: said before a run, and who uses it is let be."""
    check = check_gpus(Wanted(2, 0.4))
    assert not check.ok and "1: NVIDIA L4 (22 GiB, 14 of them in use)" in check.found
    assert "others have ended" in check.fix
    assert check_gpus(Wanted(2, 0.39)).ok
    says(driver, "\n".join(f"{n}, GPU-{n}, 80000, {free}, A" for n, free in enumerate([100, 80000, 79000, 80000])))
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert taken(Wanted(2, 0.5)) == {"CUDA_VISIBLE_DEVICES": "1,2", **order}
    assert taken(Wanted(2, 0.5), by_others=["1", "2"]) == {"CUDA_VISIBLE_DEVICES": "1,3", **order}
    assert taken(Wanted(3, 0.5)) == {"CUDA_VISIBLE_DEVICES": "1,2,3", **order}
    assert taken(Wanted(4, 0.5)) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-3,0,2")
    assert taken(Wanted(2, 0.5)) == {"CUDA_VISIBLE_DEVICES": "GPU-3,2", **order}


def test_a_ray_that_runs_already_has_its_own_cards(
    tmp_path: Path, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVERL_RAY_ADDRESS", "auto")
    wanted = needs_of(bundle("dense-8gpu"))
    assert wanted is not None and "GPUs" not in [check.name for check in check_needs(wanted, tmp_path)]
    assert taken(Wanted(1)) == {}


def test_a_driver_that_fails_is_quoted(driver: Path) -> None:
    says(driver, "Failed to initialize NVML: Driver/library version mismatch", code=18)
    assert "version mismatch" in check_gpus().found and not check_gpus().ok


def test_versions_are_compared_without_the_build() -> None:
    torch = __import__("importlib.metadata", fromlist=["version"]).version("torch").partition("+")[0]
    assert check_pins({"torch": torch}).ok
    check = check_pins({"torch": "1.0", "no-such-package": "2.0"})
    assert check.found == f"no-such-package missing instead of 2.0, torch {torch} instead of 1.0"


def test_every_check_says_what_to_do(tmp_path: Path, driver: Path) -> None:
    wanted = needs_of(bundle("dense-8gpu"))
    assert wanted is not None
    checks = check_needs(wanted, tmp_path)
    assert len({check.name for check in checks}) == len(checks) == 5
    assert all(check.fix and check.found and check.needed_for and check.required for check in checks)
    assert not check_gpus().required, "a machine without GPUs can run something"


def test_a_small_shared_memory_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not gpus.check_shared_memory(tmp_path / "nowhere").ok
    monkeypatch.setattr(gpus, "MIN_SHM_GIB", 1e9)
    assert "--shm-size" in gpus.check_shared_memory(tmp_path).fix
