"""Names of what protects the host from agents and rewards from forgery; which of them a backend has.

A run may require any of them (``environment.required_defences``): it then refuses to start where one is not to be had.
It knows names and declared capabilities; whether they hold is shown by ``tests/attacks``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from runtime import suggest
from runtime.errors import MachineError
from runtime.sandboxes.base import Capabilities

if TYPE_CHECKING:
    from runtime.config import Network

OF_THE_TASK = frozenset({"canary", "reward_file", "solution_user", "tests_restored", "host_verdict", "report_nonce"})
"""Depend on the task's tests, so they are checked with each verdict. ``solution_user``: code under test ran in a
process of its own, as a user who can neither read the tests nor reach the process that judges. ``reward_file``: no
program that runs code under test can write what the reward is read from."""
MET_BY = {"solution_user": "solution_box"}
"""Required names that another one in a record is as good as. ``solution_box``: code under test ran in a box of its own,
which shares with the one that judges nothing but a socket."""
OF_THE_VERIFIER = frozenset({"agent_killed", "declared_artifacts"})
"""Always there."""


def provider_defences(capabilities: Capabilities) -> tuple[str, ...]:
    """What a backend gives to every sandbox, in a fixed order."""
    names = []
    if capabilities.fresh_filesystem:
        names.append("fresh_sandbox")
    if capabilities.network_off:
        names.append("network_off")
    if capabilities.memory_limit:
        names.append("memory_limit")
    return (*names, *capabilities.defences)


def missing(required: Iterable[str], present: Iterable[str]) -> str:
    """The required names that are not present, joined by commas; empty if there are none."""
    there = set(present)
    return ", ".join(sorted(name for name in set(required) - there if MET_BY.get(name) not in there))


def check_network(wanted: Network, capabilities: Capabilities) -> None:
    """Raises ``MachineError`` where a phase must be held to a policy that the backend, on this machine, does not
    enforce. Kubernetes is asked by its own ``require_isolation``, once there is a box to try it from."""
    phases = [
        name for name, value in (("agent", wanted.agent), ("verifier", wanted.verifier)) if value not in (None, "any")
    ]
    if phases and not capabilities.network_off and capabilities.isolation != "kubernetes":
        raise MachineError(
            f"sandboxes ({capabilities.isolation}) do not hold environment.network.{', '.join(phases)}",
            fix=f"run on a machine or backend that isolates (`{suggest.liverl('doctor')}`), or leave"
            " environment.network out",
        )


def check_provider(required: Iterable[str], capabilities: Capabilities) -> None:
    """Raises ``MachineError`` where the backend, on this machine, lacks a required defence."""
    lacking = missing(set(required) - OF_THE_TASK - OF_THE_VERIFIER, provider_defences(capabilities))
    if lacking:
        raise MachineError(
            f"sandboxes ({capabilities.isolation}) lack required defences: {lacking}",
            fix="run on a machine or backend that has them, or take them out of environment.required_defences",
        )
