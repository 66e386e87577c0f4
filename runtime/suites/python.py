"""unittest of the box's own Python, by a program of ours (``programs/unittest_runner.py``)."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence

from runtime.suites.base import ERROR, FAILED, PASSED, SKIPPED, Outcomes, Report, Suite
from runtime.suites.reading import json_lines

_PROGRAM = "unittest_runner.py"


def _script(ids: Sequence[str]) -> str:
    files = '"$REPORT/unittest.jsonl" "$TOOLS/modules" < "$TOOLS/ids"'
    return f'"$(command -v python3 || command -v python)" -B "$TOOLS/{_PROGRAM}" {files}'


def _parse(files: Mapping[str, bytes], workdir: str) -> Report:
    outcomes, complete = Outcomes(), False
    for entry in json_lines(files.get("unittest.jsonl", b"")):
        complete |= entry.get("event") == "done"
        test_id, outcome = entry.get("id"), entry.get("outcome")
        if isinstance(test_id, str) and outcome in (PASSED, FAILED, ERROR, SKIPPED):
            outcomes.add(test_id, outcome)
    return Report(outcomes.found, complete)


UNITTEST = Suite(
    name="unittest",
    language="python",
    script=_script,
    parse=_parse,
    protected=(
        "conftest.py",
        "setup.cfg",
        "pyproject.toml",
        "tox.ini",
        "sitecustomize.py",
        "usercustomize.py",
        "*.pth",
    ),
    ids_name_files=True,
    secret_report=True,
    look_alike=lambda source, names, draw, follows=(): (source, ()),  # Python is parsed: ``grading/canary.py``
    comment="#",
    suffixes=(".py",),
    files={_PROGRAM: importlib.resources.files("runtime.suites").joinpath(f"programs/{_PROGRAM}").read_bytes()},
)
