"""JavaScript: jest, vitest and mocha, each by the JSON that it writes, and node's own runner. Ids are the file
of tests, ``::`` and the test's whole name: titles of its groups and its own, with blanks between.
"""

from __future__ import annotations

import importlib.resources
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from runtime.suites import look_alikes
from runtime.suites.base import COMMAND_NOT_FOUND, FAILED, PASSED, SKIPPED, Outcomes, Report, Suite, below, files_of
from runtime.suites.reading import items, json_lines, json_of, table, text

_PATH = 'export CI=1 PATH="$PWD/node_modules/.bin:/node_modules/.bin:$PATH"\n'
_STATUS: Final = {"passed": PASSED, "failed": FAILED}
_REPORT = "report.json"
_REPORTER = "node_reporter.mjs"


def _words(ids: Sequence[str]) -> str:
    return " ".join(shlex.quote(f"./{file}") for file in files_of(ids))


def _jest(ids: Sequence[str]) -> str:
    written = f'--json --outputFile="$REPORT/{_REPORT}"'
    return f"{_PATH}jest --ci --runInBand --bail=0 --coverage=false {written} --runTestsByPath {_words(ids)}"


def _vitest(ids: Sequence[str]) -> str:
    written = f'--reporter=json --outputFile="$REPORT/{_REPORT}"'
    return f"{_PATH}vitest run --allowOnly --bail=0 --coverage.enabled=false {written} {_words(ids)}"


def _mocha(ids: Sequence[str]) -> str:
    return f'{_PATH}mocha --no-bail --reporter json --reporter-option output="$REPORT/{_REPORT}" {_words(ids)}'


def _node(ids: Sequence[str]) -> str:
    """Each file by a process of its own, as ``node --test`` has it; that takes names for patterns from Node 22 on."""
    files = " ".join(shlex.quote(f"./{file}") for file in files_of(ids))
    return f"""
export CI=1
number=0
for file in {files}; do
  number=$((number + 1))
  node --test-reporter="$TOOLS/{_REPORTER}" --test-reporter-destination="$REPORT/$number.jsonl" "$file"
  code=$?
  [ "$code" = {COMMAND_NOT_FOUND} ] || printf '%s' "$file" > "$REPORT/$number.source"
done
exit "$code"
"""


def _parse_jest(files: Mapping[str, bytes], workdir: str) -> Report:
    """Also vitest's, which writes the same."""
    found, outcomes = table(json_of(files.get(_REPORT, b""))), Outcomes()
    for file in map(table, items(found.get("testResults"))):
        name = below(file.get("name"), workdir)
        for test in map(table, items(file.get("assertionResults"))):
            whole = " ".join([*map(text, items(test.get("ancestorTitles"))), text(test.get("title"))]).strip()
            outcomes.add(f"{name}::{whole}", _STATUS.get(text(test.get("status")), SKIPPED))
    return Report(outcomes.found, isinstance(found.get("numTotalTests"), int))


def _parse_mocha(files: Mapping[str, bytes], workdir: str) -> Report:
    found, outcomes = table(json_of(files.get(_REPORT, b""))), Outcomes()
    for kind, outcome in (("passes", PASSED), ("pending", SKIPPED), ("failures", FAILED)):
        for test in map(table, items(found.get(kind))):
            outcomes.add(f"{below(test.get('file'), workdir)}::{text(test.get('fullTitle')).strip()}", outcome)
    return Report(outcomes.found, isinstance(table(found.get("stats")).get("tests"), int))


def _parse_node(files: Mapping[str, bytes], workdir: str) -> Report:
    outcomes, whole = Outcomes(), []
    for name, source in sorted(files.items()):
        if not name.endswith(".source"):
            continue
        file, done = below(source.decode("utf-8", "replace"), workdir), False
        for entry in json_lines(files.get(f"{name.removesuffix('.source')}.jsonl", b"")):
            done |= entry.get("event") == "done"
            if entry.get("outcome") in (PASSED, FAILED, SKIPPED):
                outcomes.add(f"{file}::{' '.join(map(text, items(entry.get('name')))).strip()}", entry["outcome"])
        whole.append(done)
    return Report(outcomes.found, bool(whole) and all(whole))


_PROTECTED = (
    *("node_modules", "package.json", "package-lock.json", "yarn.lock", "pnpm-lock.yaml", ".npmrc", ".yarnrc*"),
    *(".yarn", ".pnp.*", ".pnpmfile.cjs", "pnpm-workspace.yaml", "bunfig.toml", ".nycrc*", ".c8rc*", ".swcrc"),
)

JEST = Suite(
    name="jest",
    language="javascript",
    script=_jest,
    parse=_parse_jest,
    protected=(
        *_PROTECTED,
        "jest.*",
        "babel.config.*",
        ".babelrc*",
        "tsconfig*.json",
        "__mocks__",
        "__snapshots__",
    ),
    ids_name_files=True,
    secret_report=True,
    look_alike=look_alikes.javascript,
    comment="//",
    suffixes=(".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx"),
)
VITEST = replace(
    JEST,
    name="vitest",
    script=_vitest,
    protected=(
        *(*_PROTECTED, "vitest.*", "vite.config.*", "tsconfig*.json", "__mocks__", "__snapshots__"),
        *("postcss.config.*", ".postcssrc*"),  # Vite runs them where the report is written
    ),
)
MOCHA = replace(
    JEST,
    name="mocha",
    script=_mocha,
    parse=_parse_mocha,
    protected=(*_PROTECTED, ".mocharc*", "mocha.opts", "babel.config.*", ".babelrc*", "tsconfig*.json"),
)
NODE = replace(
    JEST,
    name="node",
    script=_node,
    parse=_parse_node,
    protected=(*_PROTECTED, "node.config.json", "tsconfig*.json", "*.snapshot"),
    files={_REPORTER: importlib.resources.files("runtime.suites").joinpath(f"programs/{_REPORTER}").read_bytes()},
)
