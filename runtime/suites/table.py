"""The table of suites, by the name that a task gives in ``runner`` of ``[metadata.liverl]``.

Graders that a set of tasks brings are the ``log`` runner's affair (``grading/log_verdict.py``).
"""

from __future__ import annotations

from typing import Final

from runtime.suites.base import Suite
from runtime.suites.go import GO
from runtime.suites.javascript import JEST, MOCHA, NODE, VITEST
from runtime.suites.junit import CTEST, GRADLE, JUNIT, MAVEN, PHPUNIT
from runtime.suites.python import UNITTEST
from runtime.suites.ruby import RSPEC
from runtime.suites.rust import CARGO

PYTHON_RUNNERS: Final = ("mini", "pytest")
"""Those of the test kit, which runs inside a box's own Python."""

SUITES: Final[dict[str, Suite]] = {
    suite.name: suite
    for suite in (UNITTEST, GO, CARGO, JEST, VITEST, MOCHA, NODE, MAVEN, GRADLE, JUNIT, CTEST, RSPEC, PHPUNIT)
}


def language_of(runner: str) -> str:
    """The language of a task with test ids; "" for a runner that is not known."""
    if runner in PYTHON_RUNNERS:
        return "python"
    return SUITES[runner].language if runner in SUITES else ""
