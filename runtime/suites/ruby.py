"""Ruby: RSpec, by the JSON that it writes to a file. Ids are the file of specs, ``::`` and the whole description."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from runtime.suites import look_alikes
from runtime.suites.base import FAILED, PASSED, SKIPPED, Outcomes, Report, Suite, files_of
from runtime.suites.reading import items, json_of, table, text

_STATUS: Final = {"passed": PASSED, "failed": FAILED}


def _script(ids: Sequence[str]) -> str:
    files = " ".join(shlex.quote(f"./{file}") for file in files_of(ids))
    return f"""
set -- rspec --no-color --no-fail-fast --format json --out "$REPORT/rspec.json" {files}
[ -f Gemfile ] && command -v bundle > /dev/null && set -- bundle exec "$@"
exec "$@"
"""


def _parse(files: Mapping[str, bytes], workdir: str) -> Report:
    found, outcomes = table(json_of(files.get("rspec.json", b""))), Outcomes()
    for example in map(table, items(found.get("examples"))):
        file = posixpath.normpath(text(example.get("file_path")) or ".")
        outcome = _STATUS.get(text(example.get("status")), SKIPPED)
        outcomes.add(f"{file}::{text(example.get('full_description'))}", outcome)
    return Report(outcomes.found, isinstance(table(found.get("summary")).get("example_count"), int))


RSPEC = Suite(
    name="rspec",
    language="ruby",
    script=_script,
    parse=_parse,
    protected=("spec/*", ".rspec*", "Gemfile", "Gemfile.lock", ".bundle", "vendor/bundle/*", ".simplecov"),
    ids_name_files=True,
    secret_report=True,
    look_alike=look_alikes.ruby,
    comment="#",
    suffixes=(".rb",),
)
