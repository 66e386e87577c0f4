"""What a suite is: one test runner, the shell text that starts it, and the parser of its own machine-readable report.

The report comes from a process, or its neighbour, in which code under test ran: a parser must come to an end on
anything, and what it does not understand counts for nothing.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from runtime.suites.look_alikes import LookAlike

PASSED, SKIPPED, FAILED, ERROR = "passed", "skipped", "failed", "error"
_WORST_LAST: Final = (PASSED, SKIPPED, FAILED, ERROR)
COMMAND_NOT_FOUND = 127
_VERSIONS: Final = (
    *(".tool-versions", "mise.toml", ".mise.toml", "mise.*.toml", ".mise", ".envrc", ".sdkmanrc", ".nvmrc"),
    *(".node-version", ".ruby-version", ".java-version", ".python-version", ".php-version", ".go-version"),
)
"""By which version managers choose the programs that a box's path finds; some run what stands there."""


@dataclass(frozen=True)
class Report:
    """``outcomes``: test id -> the worst that was said of it, in the order in which tests were first named.
    ``complete``: the runner came to its end and said so."""

    outcomes: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False


Parser = Callable[[Mapping[str, bytes], str], Report]
"""(name below ``$REPORT`` -> content, the work directory) -> report."""


@dataclass(frozen=True)
class Suite:
    """One row of the table. ``script``: shell text for the test ids given, which runs in the work directory and leaves
    the report in the folder ``$REPORT``; None: the task must say it (``test_command``). ``files``: programs of
    ours that the script finds in ``$TOOLS``.

    ``protected``: what steers the runner or may hold tests, never an agent's (patterns, see ``steers``).
    ``ids_name_files``: what stands before ``::`` in an id is a file of tests. ``secret_report``: the report lies under
    a name that is drawn for each run; where not, it also goes through what the code under test can write to.
    ``look_alike``: the source of a file of tests, and names of tests in it, -> the same with these tests
    spoiled, and the names for which that was done. ``where``: how the file of a test is found by its id. ``function``:
    the name in the source of a test that runs under several, with a case or a subtest in each.
    """

    name: str
    language: str
    script: Callable[[Sequence[str]], str] | None
    parse: Parser
    protected: tuple[str, ...]
    ids_name_files: bool
    secret_report: bool
    look_alike: LookAlike
    comment: str
    suffixes: tuple[str, ...]
    where: Callable[[str, Iterable[str]], str | None] | None = None
    function: Callable[[str], str] = lambda name: name
    files: Mapping[str, bytes] = field(default_factory=dict)

    def steers(self, path: str) -> bool:
        """Whether a file of that name, below the work directory, is never taken from an agent. A pattern without a
        slash is of a file or a folder anywhere, another one of a path that ends so or lies below."""
        parts = path.split("/")
        for pattern in (*self.protected, *_VERSIONS):
            if "/" not in pattern:
                if any(fnmatch.fnmatchcase(part, pattern) for part in parts):
                    return True
            elif fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*/{pattern}"):
                return True
        return False

    def file_of(self, test_id: str, sources: Iterable[str]) -> tuple[str, str] | None:
        """(file, name of the test in it); None where that cannot be told."""
        file, _, name = test_id.partition("::")
        if self.where is None:
            return (file, self.function(name)) if name and file in set(sources) else None
        found = self.where(test_id, sources)
        return (found, self.function(name or test_id)) if found is not None else None


class Outcomes:
    """Collects what a report says; of several words on one test the worst counts, so that a forged line beside a true
    one gains nothing."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def add(self, test_id: str, outcome: str) -> None:
        before = self.found.get(test_id, PASSED)
        self.found[test_id] = max(before, outcome, key=_WORST_LAST.index)


def below(path: object, workdir: str) -> str:
    """A file's name in a report, from the work directory on."""
    text = posixpath.normpath(path) if isinstance(path, str) and path else ""
    prefix = workdir.rstrip("/") + "/"
    return text[len(prefix) :] if text.startswith(prefix) else text


def files_of(ids: Sequence[str]) -> list[str]:
    """The files that ids name, each once."""
    return list(dict.fromkeys(test_id.partition("::")[0] for test_id in ids))


def reports(files: Mapping[str, bytes], suffix: str) -> Iterator[bytes]:
    for name in sorted(files):
        if name.endswith(suffix):
            yield files[name]
