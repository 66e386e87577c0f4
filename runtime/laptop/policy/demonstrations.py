"""Demonstrations for the warm start: walks through surveyed repositories by demonstrators who know little.

On bugs of the families that they know, most read the code and make the right repair (``informed_fraction``). On all
others they search: at each line they try one of the repairs offered there or go on. What is imitated is therefore how
to use the tools and how to read some lines; to be sure of it, and the other families, are left to reinforcement. A walk
is text by role; this module does not know tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from runtime.laptop.tools.debugger import SOLVED, UNDONE

Survey = Mapping[str, Any]
Part = tuple[Literal["user", "assistant", "tool"], str]

TRY_FRACTION: Final = 0.35
"""How often a demonstrator who does not look tries a repair at a line."""


@dataclass(frozen=True)
class Ground:
    """One surveyed repository: what the agent is told, what each repair would do, and the kind of its bug."""

    instruction: str
    survey: Survey
    family: str = ""


def usable(ground: Ground) -> bool:
    """Whether a walk makes sense: something fails, and one of the offered repairs mends it."""
    return any(any(stop["repairs"].values()) for stop in ground.survey["stops"])


def walk(ground: Ground, rng: random.Random, *, informed: float, max_edits: int, max_turns: int) -> list[Part]:
    """One demonstration, as the proxy would see it; ends with ``submit`` or when a budget is spent."""
    stops = ground.survey["stops"]
    looks = rng.random() < informed
    parts: list[Part] = [("user", ground.instruction), ("assistant", call("run"))]
    parts.append(("tool", f"{ground.survey['failure']}\n{stops[0]['text']}"))
    position = edits = 0
    for _ in range(max_turns - 2):
        repairs = stops[position % len(stops)]["repairs"]
        if looks:
            choice = next((tool for tool, solves in repairs.items() if solves), "next")
        else:
            choice = rng.choice(list(repairs)) if rng.random() < TRY_FRACTION else "next"
        parts.append(("assistant", call(choice)))
        position += 1
        if choice == "next":
            parts.append(("tool", observe(stops, position)))
            continue
        edits += 1
        if repairs[choice]:
            return [*parts, ("tool", SOLVED), ("assistant", call("submit"))]
        parts.append(("tool", f"{UNDONE}\n{observe(stops, position)}"))
        if edits >= max_edits:
            break
    return parts


def call(tool: str) -> str:
    """A tool call in the small policy's wire format (``runtime/laptop/compact.py``)."""
    return f"<call>{tool}"


def observe(stops: Sequence[Mapping[str, Any]], position: int) -> str:
    """What the debugger says at its ``position``-th stop, counted on after the last."""
    text: str = stops[position % len(stops)]["text"]
    return text if position < len(stops) else f"again {text}"
