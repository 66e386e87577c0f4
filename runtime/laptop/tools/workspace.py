"""The agent's own work directory, inside its sandbox: files, and tests run by the testkit.

Standard library and the testkit alone. Knows nothing of tools or models.
"""

from __future__ import annotations

import os
import sys

if __package__:
    from .debugger import Failure
else:
    from debugger import Failure  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

TEST_SEC = 20.0
OUTCOME_BAD = ("failed", "error")


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
        import testkit  # type: ignore[import-not-found]  # noqa: F401  a box without it must not begin a trial

        self._root = root
        self._ids = list(ids) if ids is not None else None
        self._sources = frozenset(sources)
        self._python_path = list(python_path)
        self._runner = runner

    def failure(self) -> Failure | None:
        report = self._run(trace=True)
        return failure_of(report, self._is_source)

    def passes(self) -> bool:
        return failure_of(self._run(trace=False), self._is_source) is None

    def read(self, path: str) -> list[str]:
        with open(os.path.join(self._root, path), encoding="utf-8") as file:
            return file.read().split("\n")

    def write(self, path: str, lines: Sequence[str]) -> None:
        with open(os.path.join(self._root, path), "w", encoding="utf-8") as file:
            file.write("\n".join(lines))

    def _is_source(self, path: str) -> bool:
        return path in self._sources if self._sources else not os.path.basename(path).startswith("test_")

    def _run(self, *, trace: bool) -> dict[str, Any]:
        sys.path[:0] = [folder for folder in self._python_path if folder not in sys.path]
        if self._runner == "pytest":
            from testkit import pytest_runner as kit
        else:
            from testkit import mini as kit
        report: dict[str, Any] = kit.run(self._root, self._ids, trace=trace, stop_first=True, timeout=TEST_SEC)
        return report


def failure_of(report: dict[str, Any], is_source: Any) -> Failure | None:
    """What a test report (``testkit/report.py``) says about the first test that did not pass."""
    recent = (report.get("trace") or {}).get("recent") or []
    lines = [(path, line - 1) for path, line in recent if is_source(path)]
    for file, error in report["collect_errors"].items():
        return Failure(
            f"{file}: {error['type']}: {error['message']}"[:300], _frames(error, is_source) or lines, raised=True
        )
    for test_id, result in report["tests"].items():
        if result["outcome"] in OUTCOME_BAD:
            error = result["error"] or {"type": "Error", "message": result["outcome"], "frames": []}
            raised = error["type"] != "AssertionError"
            text = f"{error['type']}: {error['message']}" if raised else error["message"] or test_id
            return Failure(text[:300], lines or _frames(error, is_source), raised=raised)
    if report["ended"] != "exit" or not report["complete"]:
        return Failure(f"the tests ended with {report['ended']}", lines, raised=True)
    return None


def _frames(error: dict[str, Any], is_source: Any) -> list[tuple[str, int]]:
    return [(frame[0], frame[1] - 1) for frame in reversed(error.get("frames", [])) if is_source(frame[0])]
