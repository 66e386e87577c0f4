"""Sandboxes for agents and verdicts: makes the provider and the verifier that a run's settings ask for.

Callers elsewhere need only these two functions and the protocols of ``base.py``.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import MachineError

if TYPE_CHECKING:
    from runtime.config import Environment
    from runtime.environment.base import SandboxProvider, Verifier

log = logging.getLogger(__name__)


def make_provider(config: Environment, *, state: Path) -> SandboxProvider:
    """The provider of ``config.type``, or plain processes with a loud warning where the machine cannot isolate.

    state: folder for what sandboxes leave on the host; what dead owners left there is removed now. Raises
    ``MachineError`` when isolation is required and not to be had, or the folder cannot be made.
    """
    if config.kubernetes is not None:
        from runtime.environment.kubernetes import KubernetesProvider

        return KubernetesProvider(config.kubernetes, run=run_label())
    if config.ecs is not None:
        from runtime.environment.ecs import EcsProvider

        return EcsProvider(config.ecs, run=run_label())
    if config.harbor is not None:
        from runtime.environment.harbor.provider import HarborProvider

        return HarborProvider(config.harbor)

    from runtime.environment import bwrap
    from runtime.environment.bubblewrap import BubblewrapProvider
    from runtime.environment.process import ProcessProvider

    why = "environment.type is 'process'" if config.type == "process" else bwrap.why_impossible()
    if why is not None and config.require_isolation:
        raise MachineError(f"sandboxes are not isolated: {why}", fix=bwrap.INSTALL)
    try:
        if why is None:
            return BubblewrapProvider(state=state)
        log.warning(
            "NO ISOLATION: agents and tests run as plain processes with your rights and your network (%s); cure: %s",
            why,
            bwrap.INSTALL,
        )
        return ProcessProvider(state=state)
    except OSError as error:
        fix = f"free space below {state}, or make it writable"
        raise MachineError(f"{state}: {error.strerror}", fix=fix) from error


def run_label() -> str:
    """Names what belongs to this run on other people's machines; without a run, to this process."""
    folder = os.environ.get("LIVERL_RUN_DIR")
    return Path(folder).name if folder else f"process-{os.getpid()}-{secrets.token_hex(4)}"


def make_verifier(config: Environment, provider: SandboxProvider, *, state: Path) -> Verifier:
    """A verifier that grades in fresh sandboxes of ``provider`` (which it does not close)."""
    from runtime.environment.verifier import SandboxVerifier

    return SandboxVerifier(config, provider)
