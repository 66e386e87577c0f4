"""Parts of the runtime by the names that ``runtime.json`` and ``verl.yaml`` use, resolved when they are asked for.

The only way from production into the laptop wing (``runtime/laptop``). Knows where parts are, not what they do.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

PARTS: Mapping[str, Mapping[str, str]] = {
    # trainer.device -> runtime.trainer.platform.Platform
    "platforms": {"cpu": "runtime.laptop.cpu_platform:CPU", "cuda": "runtime.trainer.cuda.platform:CUDA"},
    # rollout.engine -> a function that makes a runtime.rollouter.engine.LocalReplica in this process
    "engines": {"torch": "runtime.laptop.engine.torch_engine:TorchEngine"},
    # rollout.tool_parser -> runtime.proxy.parsers.base.Format
    "formats": {"compact": "runtime.laptop.compact:COMPACT"},
    # policy.type -> what makes the policy's folder, where it is not just read
    "policies": {"new": "runtime.laptop.policy.build:build_policy"},
    # scaffold.tools of the shell scaffold -> runtime.scaffolds.shell.ToolSet
    "tool_sets": {"free": "runtime.scaffolds.shell.free_tools", "repair": "runtime.laptop.tools.repair_tools"},
    # scaffold.tools -> scripted baselines that hold the same tools
    "baselines": {
        "free": "runtime.agent_loop.rivals:score",
        "repair": "runtime.laptop.policy.baselines:score",
    },
    # source.type of tasks that are generated from nothing -> module with generate(count, seed, split, out, families)
    "generators": {"synth": "runtime.laptop.synth"},
}
"""Kind -> name -> ``module`` or ``module:object``."""


def names(kind: str) -> tuple[str, ...]:
    return tuple(PARTS[kind])


def part(kind: str, name: str) -> Any:
    """The module or object of this name. Raises ``LookupError`` with what there is."""
    place = PARTS[kind].get(name)
    if place is None:
        raise LookupError(f"{kind}: no {name!r}; there is {', '.join(PARTS[kind]) or 'none'}")
    module, _, attribute = place.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
