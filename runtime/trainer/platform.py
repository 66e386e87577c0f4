"""Where the trainer meets the kind of device that it runs on (``trainer.device``): a ``Platform`` for each.

Knows the seam, no device. Platforms are found by name in ``runtime/parts.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import yaml

from runtime.parts import part
from runtime.rollouter.engine import Replica
from runtime.run_paths import RunPaths


class Platform(Protocol):
    """What verl's processes need on one kind of device."""

    @property
    def not_inherited(self) -> Collection[str]:
        """Variables of the launching shell that must not reach the trainer."""

    def environment(self, paths: RunPaths) -> Mapping[str, str]:
        """Variables of the trainer and, through Ray, of every process that it starts."""

    def prepare(self, paths: RunPaths) -> None:
        """What must lie in the run's scratch before the trainer starts."""

    def replicas(self) -> Mapping[str, Replica]:
        """How an agent loop, in verl's task runner or a worker of its own, reaches the replicas: name -> replica."""


def find_platform(device: str) -> Platform:
    """The platform of verl's ``trainer.device``. Raises ``LookupError`` where the runtime has none."""
    found: Platform = part("platforms", device)
    return found


def device_of(paths: RunPaths) -> str:
    """The ``trainer.device`` of a run's ``verl.yaml``."""
    return str(trainer_table(paths).get("device") or "cpu")


def trainer_table(paths: RunPaths) -> dict[str, Any]:
    """The part ``trainer`` of a run's ``verl.yaml``."""
    table: dict[str, Any] = yaml.safe_load(paths.verl_yaml.read_text(encoding="utf-8")).get("trainer") or {}
    return table


def rollout_table(paths: RunPaths) -> dict[str, Any]:
    """The part ``actor_rollout_ref.rollout`` of it."""
    tree = yaml.safe_load(paths.verl_yaml.read_text(encoding="utf-8"))
    table: dict[str, Any] = (tree.get("actor_rollout_ref") or {}).get("rollout") or {}
    return table
