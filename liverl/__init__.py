"""LiveRL's front door: the command line (``liverl.cli``) and the public names, loaded when first used.

Knows where things are, not how they work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler import compile_spec as compile_spec
    from runtime.sandboxes.base import Sandbox as Sandbox
    from runtime.scaffolds.base import Scaffold as Scaffold

_HOMES = {
    "Sandbox": "runtime.sandboxes.base",
    "Scaffold": "runtime.scaffolds.base",
    "compile_spec": "compiler",
}

__all__ = ["Sandbox", "Scaffold", "compile_spec"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
