"""Where the compiler meets launch targets: the ``Target`` protocol.

A target says, as data, what it changes in the lowered configurations and which files it adds. It never runs anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from compiler.errors import Problem
from compiler.facts import Facts
from compiler.plan import Plan


@dataclass(frozen=True)
class Lowered:
    """The configurations that every target shares: verl's, vLLM's and the runtime's; ``sft`` is that of verl's SFT
    trainer, None where no supervised stage comes first."""

    verl: Facts
    vllm: Facts
    runtime: Facts
    sft: Facts | None = None


@dataclass(frozen=True)
class Artifact:
    """One file of a target. ``origins`` maps paths inside it to the spec fields they follow from."""

    text: str
    origins: Mapping[str, tuple[str, ...]]


class Target(Protocol):
    """One way of launching. Instances hold no state."""

    @property
    def name(self) -> str:
        """How the command line and the bundle's folder call it."""

    def pins(self, plan: Plan) -> Mapping[str, str]:
        """Package -> version that this plan runs with here."""

    def check(self, plan: Plan) -> Iterable[Problem]:
        """What keeps this plan from running on this target. Best one by one: of a spec with wrong fields, what was said
        before one of them was asked for is kept."""

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        """The facts that must differ here: paths, addresses and nothing else."""

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        """File name in the bundle -> content, beside the shared files, whose final text is in ``files``.

        Raises ``SpecError`` when a file cannot be made from this plan.
        """
