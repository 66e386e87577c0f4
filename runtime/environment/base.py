"""The protocols of sandboxes and verifiers under their former name; new code imports ``runtime.sandboxes.base`` and
``runtime.grading.base``."""

from runtime.grading.base import Verdict, Verifier
from runtime.sandboxes.base import (
    AGENT,
    ArtifactsRefused,
    Capabilities,
    ExecResult,
    Mount,
    Sandbox,
    SandboxProvider,
    SandboxRequest,
)

__all__ = [
    "AGENT",
    "ArtifactsRefused",
    "Capabilities",
    "ExecResult",
    "Mount",
    "Sandbox",
    "SandboxProvider",
    "SandboxRequest",
    "Verdict",
    "Verifier",
]
