"""What the verifier needs of a sandbox beyond ``Sandbox``: LiveRL's own test runners in it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from runtime.sandboxes.base import Sandbox


@runtime_checkable
class GradingSandbox(Sandbox, Protocol):
    """A sandbox that can run the test kit (``testkit/``)."""

    async def run_tests(self, runner: str, *, timeout_sec: float, **arguments: Any) -> dict[str, Any]:
        """A report (``testkit/report.py``): data from a box in which the code under test ran."""
