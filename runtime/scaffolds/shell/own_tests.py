"""The agent's own test runs in its work directory, by the testkit, and what they say of the first failure.

Standard library and the testkit alone: runs inside sandboxes. Knows no tools, models or HTTP.
"""

from __future__ import annotations

import ast
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

TEST_SEC = 20.0
OUTCOME_BAD = ("failed", "error")
ALL_PASS = "tests: all pass"


class OwnTests:
    """``root`` on disk. ``ids``: the tests that matter (None: all); ``sources``: the files under repair (empty: all but
    tests)."""

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

        self.root = root
        self._ids = list(ids) if ids is not None else None
        self._sources = frozenset(sources)
        self._python_path = list(python_path)
        self._runner = runner

    def is_source(self, path: str) -> bool:
        return path in self._sources if self._sources else not os.path.basename(path).startswith("test_")

    def run(self, *, trace: bool) -> dict[str, Any]:
        """A report (``testkit/report.py``) up to the first test that does not pass."""
        sys.path[:0] = [folder for folder in self._python_path if folder not in sys.path]
        if self._runner == "pytest":
            from testkit import pytest_runner as kit
        else:
            from testkit import mini as kit
        report: dict[str, Any] = kit.run(self.root, self._ids, trace=trace, stop_first=True, timeout=TEST_SEC)
        return report


def first_failure(report: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """(Test id or file, error with type, message and frames) of the first failure; None where all pass."""
    for file, error in report["collect_errors"].items():
        return file, error
    for test_id, result in report["tests"].items():
        if result["outcome"] in OUTCOME_BAD:
            return test_id, result["error"] or {"type": "Error", "message": result["outcome"], "frames": []}
    if report["ended"] != "exit" or not report["complete"]:
        return "the tests", {"type": "Error", "message": f"they ended with {report['ended']}", "frames": []}
    return None


def outcome(report: dict[str, Any]) -> str:
    """One line for the agent."""
    failure = first_failure(report)
    if failure is None:
        return ALL_PASS
    return failing(*failure)


def failing(test: str, error: dict[str, Any]) -> str:
    return f"tests: {test} fails: {error['type']}: {error['message']}"[:600]


def first_look(tests: OwnTests, *, functions: int, max_chars: int) -> str:
    """What the first failing test says, and the source of the functions of the code under repair that it executed last,
    the last one first: at most ``functions`` of them in at most ``max_chars`` characters, whole lines only."""
    report = tests.run(trace=True)
    failure = first_failure(report)
    if failure is None:
        return "The tests were run: all pass."
    test, error = failure
    recent = [(path, line) for path, line in (report.get("trace") or {}).get("recent") or [] if tests.is_source(path)]
    # A failure before any test began has no trace.
    recent = recent or [(path, line) for path, line, *_ in reversed(error["frames"]) if tests.is_source(path)]
    return told(test, error, _functions(tests.root, recent), functions=functions, max_chars=max_chars)


def told(
    test: str, error: dict[str, Any], found: Iterable[tuple[str, int, list[str]]], *, functions: int, max_chars: int
) -> str:
    """A first look as text. ``found``: (file, first line, lines) of functions, the one executed last first."""
    frames = [f"  {path}:{line} in {name}: {source}" for path, line, name, source in error["frames"][-4:]]
    head = "\n".join([f"The tests were run. {test} fails:", *frames, f"{error['type']}: {error['message']}"])
    text = cut(head, max_chars)
    for number, (path, start, lines) in enumerate(found):
        if number == functions:
            break
        title = "\n\nIt executed last:" if number == 0 else ""
        block = [f"\n{path}, lines {start} to {start + len(lines) - 1}:"]
        block += [f"{at:5d}  {line}" for at, line in enumerate(lines, start)]
        shown = title + "\n".join(block)
        if len(text) + len(shown) > max_chars:
            break
        text += shown + "\n"
    return text.rstrip("\n")


def _functions(root: str, recent: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, list[str]]]:
    """(File, first line, lines) of the innermost function around each executed line, each function once."""
    seen: set[tuple[str, int]] = set()
    trees: dict[str, tuple[Any, list[str]]] = {}
    for path, line in recent:
        if path not in trees:
            trees[path] = _parsed(os.path.join(root, path))
        tree, lines = trees[path]
        found = _innermost(tree, line) if tree is not None else None
        if found is None or (path, found[0]) in seen:
            continue
        seen.add((path, found[0]))
        yield path, found[0], lines[found[0] - 1 : found[1]]


def _parsed(path: str) -> tuple[Any, list[str]]:
    try:
        with open(path, "rb") as file:
            source = file.read()
        # Broken syntax has no functions; what the failure itself says is then all there is.
        return ast.parse(source), source.decode(errors="replace").replace("\r\n", "\n").split("\n")
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None, []


def _innermost(tree: Any, line: int) -> tuple[int, int] | None:
    found = None
    for node in ast.walk(tree):  # outer ones come first
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.lineno <= line <= (node.end_lineno or 0):
            found = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]), node.end_lineno or 0
    return found


def cut(text: str, limit: int) -> str:
    """At most about ``limit`` characters, of both ends; never within a character that is made of several."""
    if len(text) <= limit:
        return text
    half = limit // 2
    begin, end = half, len(text) - half
    while begin > 0 and _continues(text[begin]):
        begin -= 1
    while end < len(text) and _continues(text[end]):
        end += 1
    return f"{text[:begin]}\n... {end - begin} characters left out ...\n{text[end:]}"


def _continues(character: str) -> bool:
    """Whether it belongs to the one before it: joiners, variation selectors, skin tones, combining marks."""
    import unicodedata

    return (
        character in "\u200d\ufe0e\ufe0f"
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or unicodedata.combining(character) != 0
    )
