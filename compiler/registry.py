"""Finds launch targets by name or by ``package.module:Class``; imports a target only when it is asked for."""

from __future__ import annotations

import difflib
import importlib

from compiler.errors import refuse
from compiler.target import Target

BUILT_IN = {
    "docker": "targets.docker:TARGET",
    "k8s": "targets.k8s:TARGET",
    "local": "targets.local:TARGET",
    "ray": "targets.ray_cluster:TARGET",
    "skypilot": "targets.skypilot:TARGET",
}

ALIASES = {"kubernetes": "k8s"}
_ALLOWED = "package.module:Class that implements targets.base.Target"
_PARTS = ("name", "pins", "check", "adapt", "artifacts")


def find_target(name: str) -> Target:
    """Raises ``SpecError`` for an unknown name or an import path that leads nowhere."""
    name = ALIASES.get(name, name)
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
        target: Target = found() if isinstance(found, type) else found
    except Exception as error:  # a foreign module may raise whatever it likes
        if name in BUILT_IN:
            raise
        words = str(error).splitlines() or [type(error).__name__]
        raise refuse(f"--target {name}: {words[0]}", allowed=_ALLOWED) from error
    if missing := [part for part in _PARTS if not hasattr(target, part)]:
        raise refuse(f"--target {name}: is no target, it has no {', '.join(missing)}", allowed=_ALLOWED)
    return target
