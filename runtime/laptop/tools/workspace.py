"""The agent's own work directory, inside its sandbox: files, and tests run by the testkit.

Standard library and the testkit alone. Knows nothing of tools or models.
"""

from __future__ import annotations

import os

if __package__:
    from runtime.scaffolds.shell.own_tests import OwnTests, first_failure

    from .debugger import Failure
else:
    from debugger import Failure  # type: ignore[import-not-found,no-redef]
    from own_tests import OwnTests, first_failure  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class FolderWorkspace:
    """``root`` on disk. ``ids``: the tests that matter (None: all); ``sources``: files that may be repaired (empty: all
    but tests)."""

    def __init__(
        self,
        root: str,
        *,
        runner: str,
        ids: Sequence[str] | None,
        sources: Sequence[str],
        python_path: Sequence[str] = (),
    ) -> None:
        self._root = root
        self._tests = OwnTests(root, runner=runner, ids=ids, sources=sources, python_path=python_path)

    def failure(self) -> Failure | None:
        return failure_of(self._tests.run(trace=True), self._tests.is_source)

    def passes(self) -> bool:
        return first_failure(self._tests.run(trace=False)) is None

    def read(self, path: str) -> list[str]:
        with open(os.path.join(self._root, path), encoding="utf-8") as file:
            return file.read().split("\n")

    def write(self, path: str, lines: Sequence[str]) -> None:
        with open(os.path.join(self._root, path), "w", encoding="utf-8") as file:
            file.write("\n".join(lines))


def failure_of(report: dict[str, Any], is_source: Any) -> Failure | None:
    """What a test report (``testkit/report.py``) says about the first test that did not pass."""
    failure = first_failure(report)
    if failure is None:
        return None
    place, error = failure
    recent = (report.get("trace") or {}).get("recent") or []
    lines, frames = [(path, line - 1) for path, line in recent if is_source(path)], _frames(error, is_source)
    if place in report["collect_errors"]:
        return Failure(f"{place}: {error['type']}: {error['message']}"[:300], frames or lines, raised=True)
    raised = error["type"] != "AssertionError"
    text = f"{error['type']}: {error['message']}" if raised else error["message"] or place
    return Failure(text[:300], lines or frames, raised=raised)


def _frames(error: dict[str, Any], is_source: Any) -> list[tuple[str, int]]:
    return [(frame[0], frame[1] - 1) for frame in reversed(error.get("frames", [])) if is_source(frame[0])]
