"""Go: ``go test -json``. Ids are the package's import path, ``::`` and the test's name, with ``/`` before subtests.

The program under test prints what its tests did, and the go command makes JSON of it; so what that program prints may
look like a result.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from runtime.suites import look_alikes
from runtime.suites.base import ERROR, FAILED, PASSED, SKIPPED, Outcomes, Report, Suite
from runtime.suites.reading import json_lines, text

_ENDS: Final = {"pass": PASSED, "fail": FAILED, "skip": SKIPPED}
_MAX_PATTERN = 100_000
"""One argument of a program may have 128 KiB."""


def _script(ids: Sequence[str]) -> str:
    packages = dict.fromkeys(test_id.partition("::")[0] for test_id in ids)
    names = dict.fromkeys(re.escape(test_id.partition("::")[2].partition("/")[0]) for test_id in ids)
    pattern = f"^({'|'.join(names)})$"
    chosen = f" -run {shlex.quote(pattern)}" if len(pattern) < _MAX_PATTERN else ""
    where = " ".join(shlex.quote(package) for package in packages)
    return (
        'export GOFLAGS="${GOFLAGS:-}" GOPROXY=off GOTOOLCHAIN=local GOTELEMETRY=off\n'
        f'go test -json -count=1 -failfast=false{chosen} {where} > "$REPORT/go.json"'
    )


def _parse(files: Mapping[str, bytes], workdir: str) -> Report:
    outcomes = Outcomes()
    packages: dict[str, bool] = {}
    open_tests: dict[str, str] = {}
    for event in json_lines(files.get("go.json", b"")):
        action, package, test = text(event.get("Action")), text(event.get("Package")), text(event.get("Test"))
        if not package:
            continue
        packages.setdefault(package, False)
        if not test:
            packages[package] |= action in _ENDS
            continue
        test_id = f"{package}::{test}"
        if action == "run":
            open_tests[test_id] = ""
        elif action in _ENDS:
            open_tests.pop(test_id, None)
            outcomes.add(test_id, _ENDS[action])
        elif action == "output" and test_id in open_tests:
            # Before Go 1.20 a result that follows on what a test has printed, without a new line, is no event.
            before, found, _ = text(event.get("Output")).partition(f": {test} (")
            word = before[-len("--- PASS") :]
            if found and word.startswith("--- ") and word[4:].lower() in _ENDS:
                open_tests[test_id] = _ENDS[word[4:].lower()]
    for test_id, said_last in open_tests.items():
        outcomes.add(test_id, said_last or ERROR)
    return Report(outcomes.found, bool(packages) and all(packages.values()))


def _where(test_id: str, sources: Iterable[str]) -> str | None:
    """The one file of tests in the package's folder, whose path the import path ends with, or any at all."""
    package = test_id.partition("::")[0]
    files = [file for file in sources if file.endswith("_test.go")]
    near = [file for file in files if _ends(package, posixpath.dirname(file))]
    longest = max((posixpath.dirname(file).count("/") for file in near), default=0)
    near = [file for file in near if posixpath.dirname(file) and posixpath.dirname(file).count("/") == longest] or near
    return near[0] if len(near) == 1 else None


def _ends(package: str, folder: str) -> bool:
    return not folder or package == folder or package.endswith(f"/{folder}")


GO = Suite(
    name="go",
    language="go",
    script=_script,
    parse=_parse,
    protected=("*_test.go", "testdata", "vendor", "go.mod", "go.sum", "go.work", "go.work.sum"),
    ids_name_files=False,
    secret_report=False,
    look_alike=look_alikes.GO,
    comment="//",
    suffixes=(".go",),
    where=_where,
    function=lambda name: name.partition("/")[0],
)
