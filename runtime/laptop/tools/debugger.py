"""The tools of the ``repair`` set: step through the lines that a failing test executed, and try repairs on them.

A decision is one word (``next``, or the name of a repair), because that is what exploration can find. Standard library
only: runs inside sandboxes, and on the host where demonstrations are made. It knows a ``Workspace``; it does not know
how tests are run, nor models or HTTP.
"""

from __future__ import annotations

import itertools
import re

if __package__:
    from . import repairs
else:  # a program in a mounted folder
    import repairs  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Workspace(Protocol):
        """A repository with tests, somewhere."""

        def failure(self) -> Failure | None:
            """The first failing test, or None when all pass."""

        def passes(self) -> bool:
            """Whether all tests pass now."""

        def read(self, path: str) -> list[str]:
            """The lines of a file below the repository, without their ends."""

        def write(self, path: str, lines: Sequence[str]) -> None: ...


SOLVED = "all tests pass"
UNDONE = "undone"
NOTHING = "no such repair here"
MAX_STOPS = 16
"""A failing test of a real package runs through hundreds of lines: those that ran last are nearest to the failure."""
MAX_LINE = 100
_NUMBERS = re.compile(r"gave (-?\d+), want (-?\d+)")


class Failure:
    """What a failing test said, in one line of text, and the lines of source files that it executed: (file, 0-based
    line), the one executed last first."""

    def __init__(self, text: str, lines: list[tuple[str, int]], *, raised: bool) -> None:
        self.text = text
        self.lines = lines
        self.raised = raised

    @property
    def direction(self) -> str:
        """How the result was wrong, in one word."""
        numbers = _NUMBERS.search(self.text)
        if numbers:
            return "high" if int(numbers.group(1)) > int(numbers.group(2)) else "low"
        return "error" if self.raised else "wrong"


class Debugger:
    """One repair session. Tools return what the agent reads; a repair that does not make all tests pass is undone."""

    def __init__(self, workspace: Workspace, *, max_edits: int) -> None:
        self.workspace = workspace
        self.max_edits = max_edits
        self.edits = 0
        self.solved = False
        self.stops: list[tuple[str, int]] = []
        self.position = 0
        self.failure: Failure | None = None
        self._files: dict[str, list[str]] = {}

    @property
    def exhausted(self) -> bool:
        """Whether the budget of edits is spent."""
        return self.edits >= self.max_edits

    def call(self, name: str) -> str:
        """Run one tool by name and return its text."""
        if name == "run":
            return self.run()
        if self.failure is None and not self.solved:
            return "run first"
        if self.solved:
            return SOLVED
        return self.next() if name == "next" else self.repair(name)

    def run(self) -> str:
        """Run the tests; stop at the first of the repairable lines that the first failing test executed last."""
        self.failure = self.workspace.failure()
        self.position = 0
        if self.failure is None:
            self.solved = True
            return SOLVED
        self._files = {}
        near = (stop for stop in dict.fromkeys(self.failure.lines) if self.available(stop))
        self.stops = sorted(itertools.islice(near, MAX_STOPS))
        return f"FAIL {self.failure.text}\n{self.observe()}"

    def next(self) -> str:
        """Go on to the next such line; after the last comes the first again."""
        self.position += 1
        return self.observe()

    def repair(self, tool: str) -> str:
        """Try a repair on the line; keep it if all tests pass now, else undo it and go on to the next line."""
        self.edits += 1
        if not self.stops:
            return NOTHING
        path, index = self.stops[self.position % len(self.stops)]
        lines = self._lines(path)
        edited = repairs.apply(tool, lines, index)
        if edited is None:
            outcome = NOTHING
        else:
            self.workspace.write(path, [*lines[:index], edited, *lines[index + 1 :]])
            if self.workspace.passes():
                self.solved = True
                return SOLVED
            self.workspace.write(path, lines)
            outcome = UNDONE
        return f"{outcome}\n{self.next()}"

    def available(self, stop: tuple[str, int]) -> list[str]:
        """The repairs that would change this line."""
        lines = self._lines(stop[0])
        return [tool for tool in repairs.REPAIRS if repairs.apply(tool, lines, stop[1]) is not None]

    def _lines(self, path: str) -> list[str]:
        if path not in self._files:
            self._files[path] = self.workspace.read(path)
        return self._files[path]

    def observe(self) -> str:
        """The line at the present position, how the test went wrong, and what could be tried there."""
        if not self.stops or self.failure is None:
            return "no line to repair"
        stop = self.stops[self.position % len(self.stops)]
        again = "" if self.position < len(self.stops) else "again "
        code = self._lines(stop[0])[stop[1]].strip()[:MAX_LINE]
        options = " ".join(self._option(tool, stop) for tool in self.available(stop))
        return f"{again}{code}\n{self.failure.direction} {options}"

    def _option(self, tool: str, stop: tuple[str, int]) -> str:
        """A repair's name and, where that says something, the first thing that would stand there instead."""
        lines = self._lines(stop[0])
        before = [text for _, text in repairs.lex(lines[stop[1]])]
        after = [text for _, text in repairs.lex(repairs.apply(tool, lines, stop[1]) or "")]
        if tool == "negate":
            return "negate not" if "not" in after else "negate"
        if tool in ("swap", "rename"):
            return tool
        changed = next((at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), 0)
        return f"{tool} {after[changed]}"
