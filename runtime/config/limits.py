"""What a spec may say and this version of the runtime refuses, whatever the machine: one table that the compiler warns
by and a run refuses by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from runtime.config.run import RuntimeConfig

_BEYOND_A_BOX = frozenset({"no_capabilities", "no_new_privileges", "process_limit", "seccomp", "user_namespace"})
LACKING: Mapping[str, frozenset[str]] = {
    "docker": frozenset({"user_namespace"}),
    "kubernetes": _BEYOND_A_BOX | {"network_off"},
    "ecs": _BEYOND_A_BOX | {"network_off"},
    "harbor": _BEYOND_A_BOX | {"network_off", "memory_limit"},
    "process": _BEYOND_A_BOX | {"network_off", "memory_limit", "fresh_sandbox", "reward_file", "solution_user"},
}
"""Type of sandboxes -> the defences (``runtime/sandboxes/defences.py``) that no machine gives them."""

Asked = Callable[[str], Any]
"""The value of a field, by its dotted name in the spec."""


@dataclass(frozen=True)
class Limit:
    """Something that a spec may say and that this version of the runtime refuses, whatever the machine. The compiler
    warns of it; a run says it before anything starts."""

    field: str
    """Of the spec, where the problem is told."""
    refused: Callable[[Asked], str]
    """What is refused and why; empty where nothing is."""
    fix: str


def _missing_defences(asked: Asked) -> str:
    kind = asked("environment.type")
    never = LACKING.get(kind, frozenset())
    lacking = sorted(never & set(asked("environment.required_defences")))
    return f"sandboxes of {kind} never have {', '.join(lacking)}" if lacking else ""


LIMITS: tuple[Limit, ...] = (
    Limit(
        "scaffold.type",
        lambda asked: (
            '"import": a new policy is taught with the tools of the shell scaffold alone'
            if asked("policy.type") == "new" and asked("scaffold.type") == "import"
            else ""
        ),
        "choose the shell scaffold, or a pretrained policy",
    ),
    Limit("environment.required_defences", _missing_defences, "choose other sandboxes, or take them out"),
)


def refusals(config: RuntimeConfig) -> list[tuple[Limit, str]]:
    """The limits that a run of ``config`` meets, with what each refuses."""

    def asked(field: str) -> Any:
        return reduce(getattr, field.split("."), config)

    return [(limit, what) for limit in LIMITS if (what := limit.refused(asked))]
