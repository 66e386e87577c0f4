"""SWE-smith: a bug is put into a repository that works, so its base holds the solution, and history is one commit.

A row's ``patch`` makes the bug; undone it is the repair. Commands and parsers: ``swesmith/constants.py`` and
``harness/log_parsers.py`` of the set's own repository.
"""

from __future__ import annotations

import re

from runtime.task_format.published import Published
from runtime.tasks.sets.files import Row
from runtime.tasks.sets.patches import touched
from runtime.tasks.sets.rows import image, names, optional, text
from runtime.tasks.sets.scripts import CONDA, evaluation
from runtime.tasks.sets.types import BadRow, SetTask

_PYTEST = "pytest --disable-warnings --color=no --tb=no --verbose"
_OTHERS = {
    "gpxpy": ("pytest test.py --verbose --color=no --tb=no --disable-warnings", "pytest-verbose"),
    "mido": (f"{_PYTEST} -rs -c /dev/null", "pytest-verbose"),
    "paramiko": ("pytest -rA --color=no --disable-warnings", "pytest-summary"),
    "python-slugify": ("python test.py --verbose", "unittest"),
    "pydantic": (f"/root/.local/bin/uv run {_PYTEST}", "pytest-verbose"),
    "gin": ("go test -v ./...", "go"),
}
"""Repositories whose command is their own; ``autograd``, ``mypy`` and ``tornado`` print lines of no known form."""
_UNKNOWN = ("autograd", "mypy", "tornado")
_IMAGE = re.compile(r"(?:.*/)?swesmith\.[^.]+\.(?P<repo>.+)\.(?P<commit>[0-9a-f]{7,40})(?::.*)?")


def swe_smith(row: Row, origin: str) -> SetTask:
    instance, bug = text(row, "instance_id"), text(row, "patch")
    text(row, "image_name")
    named = image(row, "image_name")
    found = _IMAGE.fullmatch(named)
    if found is None:
        raise BadRow(f"image_name {named!r} is none of the set's: swesmith.ARCHITECTURE.OWNER__NAME.COMMIT")
    if "/" not in named:
        named = f"jyangballin/{named.replace('__', '_1776_')}"
    repo = found["repo"].replace("_1776_", "/").replace("__", "/")
    fail, kept = names(row, "FAIL_TO_PASS"), names(row, "PASS_TO_PASS")
    if not fail:
        raise BadRow("column FAIL_TO_PASS is empty: nothing tells a repair from none")
    short = repo.rpartition("/")[2].lower()
    if short in _UNKNOWN:
        raise BadRow(f"the tests of {repo} print lines that no parser here reads")
    command, parser = _OTHERS.get(short, (_PYTEST, "pytest-verbose"))
    if parser == "pytest-verbose":
        files = list(dict.fromkeys(test.partition("::")[0] for test in fail))
        if not all(re.fullmatch(r"[\w./-]+\.py", file) for file in files):
            raise BadRow(f"its tests are not pytest's ({fail[0]}), and no other command is known for {repo}")
        command = " ".join([command, *files])
        kept = tuple(test for test in kept if test.partition("::")[0] in files)  # the set runs these files alone
    return SetTask(
        name=instance,
        instruction=text(row, "problem_statement"),
        published=Published(
            set="swe-smith",
            instance=instance,
            origin=origin,
            repo=repo,
            licence=optional(row, "license"),
            language="go" if parser == "go" else "python",
            image=named,
            history="none",
            log_parser=parser,
        ),
        script=evaluation(command, workdir="/testbed", before=() if parser == "go" else CONDA),
        fail_to_pass=fail,
        pass_to_pass=kept,
        solution=bug,
        backwards=True,
        bug=bug,
        test_files=tuple(dict.fromkeys(test.partition("::")[0] for test in (*fail, *kept) if "::" in test)),
        source_files=touched(bug),
    )
