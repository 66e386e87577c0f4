"""verl's device platform for a plain CPU: what it asks of ``torch.cuda``, answered without one.

Ray's placement still counts "GPU" resources, which ``ray.init(num_gpus=N)`` invents. Upstream:
``verl/plugin/platform/platform_base.py``.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

_ZERO = frozenset(
    {
        "max_memory_allocated",
        "max_memory_reserved",
        "memory_allocated",
        "memory_reserved",
        "device_count",
        "current_device",
    }
)
_NOTHING = frozenset(
    {"empty_cache", "synchronize", "set_device", "manual_seed", "manual_seed_all", "reset_peak_memory_stats"}
)


class CpuDeviceModule(types.ModuleType):
    """Stands where verl expects ``torch.cuda``; an attribute that nobody thought of fails loudly."""

    def is_available(self) -> bool:
        return False

    def get_device_name(self, *args: Any) -> str:
        # verl's flops counter looks the name up; CPU is a row of its table (a fixed 448e9 FLOP/s).
        return "CPU"

    def mem_get_info(self, *args: Any) -> tuple[int, int]:
        return (0, 0)

    def get_rng_state(self, *args: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *args: Any) -> None:
        torch.set_rng_state(state)

    def __getattr__(self, name: str) -> Any:
        if name in _ZERO:
            return lambda *args, **kwargs: 0
        if name in _NOTHING:
            return lambda *args, **kwargs: None
        raise AttributeError(f"the CPU device module has no {name}")


@PlatformRegistry.register(platform="cpu")
class PlatformCpu(PlatformBase):  # type: ignore[misc]
    """Selected by ``VERL_PLATFORM=cpu``."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = CpuDeviceModule("torch_cpu_device")

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return (None, None)

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None
