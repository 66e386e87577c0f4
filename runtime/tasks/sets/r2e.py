"""R2E-Gym: a commit's own tests, kept in its image at ``/r2e_tests``, and how each of them ends after the commit.

The files of the commit are in ``parsed_commit_content``, those of the tests in ``execution_result_content``, both JSON.
Format: ``r2egym/commit_models/diff_classes.py`` and ``agenthub/runtime/docker.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from runtime.grading.log_verdict import r2e_expected
from runtime.task_format.published import Published
from runtime.tasks.sets.files import Row
from runtime.tasks.sets.rows import image, instance, table, text
from runtime.tasks.sets.scripts import evaluation
from runtime.tasks.sets.types import BadRow, SetTask

_ISSUE = re.compile(r"\[ISSUE\](.*)\[/ISSUE\]", re.S)
_HIDDEN = ("/r2e_tests", "/root/r2e_tests", "/testbed/r2e_tests", "/testbed/run_tests.sh", "/root/run_tests.sh")
_MORE_HIDDEN = ("execution_result.json", "expected_test_output.json", "parsed_commit.json", "syn_issue.json")
_COMMAND = ".venv/bin/python -W ignore -m pytest -rA r2e_tests"


def r2e(row: Row, origin: str) -> SetTask:
    commit, named = text(row, "commit_hash"), text(row, "docker_image") and image(row, "docker_image")
    repo = text(row, "repo_name")
    parsed, result = _json(row, "parsed_commit_content"), _json(row, "execution_result_content")
    try:
        expected = r2e_expected(json.dumps(_json(row, "expected_output_json")))
    except ValueError as error:
        raise BadRow(f"column expected_output_json: {error}") from error
    files, source = {}, []
    for change in _list(parsed, "file_diffs"):
        path, new = _path(change), change.get("new_file_content")
        if _is_test(path) or not path.endswith(".py"):
            continue
        if new is None and (change.get("plus_file") or {}).get("path") == "/dev/null":
            raise BadRow(f"its commit removes {path}, and a repair is made of files that are added or replaced")
        if not isinstance(new, str):
            raise BadRow(f"parsed_commit_content: {path} has no new_file_content")
        source.append(path)
        files[path] = new.encode()
    if not files:
        raise BadRow("parsed_commit_content changes no file besides tests")
    tests = {}
    for name, code in zip(_list(result, "test_file_names"), _list(result, "test_file_codes"), strict=False):
        if not re.fullmatch(r"[\w.-]+", str(name)) or not isinstance(code, str):
            raise BadRow(f"execution_result_content: {name!r} is no name of a test file")
        tests[f"r2e_tests/{name}"] = code.encode()
    if not tests:
        raise BadRow("execution_result_content has no test files")
    statement = text(row, "problem_statement")
    issue = _ISSUE.search(statement)
    name = f"{repo}__{commit[:12]}"
    put = 'rm -rf r2e_tests && cp -R "$(dirname "$0")/r2e_tests" r2e_tests'
    return SetTask(
        name=name,
        instruction=(issue[1] if issue else statement).strip(),
        published=Published(
            set="r2e",
            instance=instance(row),
            origin=origin,
            repo=repo,
            base_commit=_base(parsed),
            language="python",
            image=named,
            hidden=(*_HIDDEN, *(f"/testbed/{one}" for one in _MORE_HIDDEN)),
            log_parser="r2e",
            rule="exact",
        ),
        script=evaluation(f"{put}\n{_COMMAND}", workdir="/testbed"),
        statuses=expected,
        files=files,
        tests=tests,
        source_files=tuple(source),
    )


def _base(parsed: Mapping[str, Any]) -> str:
    """Empty where the set says it by another commit (``…^``): its images are at the base."""
    named = str(parsed.get("old_commit_hash") or "")
    return named if re.fullmatch(r"[0-9a-f]{40}", named) else ""


def _json(row: Row, column: str) -> Mapping[str, Any]:
    found = table(row, column)
    if found is None:
        raise BadRow(f"column {column} is {'missing' if column not in row else 'empty'}")
    return found


def _list(found: Mapping[str, Any], key: str) -> list[Any]:
    value = found.get(key)
    if not isinstance(value, list):
        raise BadRow(f"{key} is missing")
    return value


def _path(change: Any) -> str:
    header = change.get("header") if isinstance(change, dict) else None
    file = header.get("file") if isinstance(header, dict) else None
    path = file.get("path") if isinstance(file, dict) else None
    if not isinstance(path, str):
        raise BadRow("parsed_commit_content: a change without the path of its file")
    return path


def _is_test(path: str) -> bool:
    parts = path.split("/")
    named = path.endswith("_test.py") or parts[-1].startswith("test_")
    return named or bool({"tests", "Tests", "test", "Test"} & set(parts))
