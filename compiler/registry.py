"""Finds launch targets by name or by ``package.module:Class``; imports a target only when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from compiler.errors import refuse

if TYPE_CHECKING:
    from targets.base import Target

BUILT_IN = {
    "docker": "targets.docker:TARGET",
    "k8s": "targets.k8s:TARGET",
    "local": "targets.local:TARGET",
    "ray": "targets.ray_cluster:TARGET",
    "skypilot": "targets.skypilot:TARGET",
}


def find_target(name: str) -> Target:
    """Raises ``SpecError`` for an unknown name or an import path that leads nowhere."""
    path = BUILT_IN.get(name, name)
    if ":" not in path:
        close = difflib.get_close_matches(name, BUILT_IN, n=1)
        raise refuse(
            f"--target {name}: unknown target",
            allowed=", ".join(BUILT_IN) + ", or package.module:Class",
            fix=f"did you mean {close[0]}?" if close else "",
        )
    module_name, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        if name in BUILT_IN:
            raise
        raise refuse(
            f"--target {name}: {error}", allowed="package.module:Class that implements targets.base.Target"
        ) from error
    target: Target = found() if isinstance(found, type) else found
    return target
