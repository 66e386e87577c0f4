"""The scripts of an imported task: what runs its set's tests, for the log, and what applies its solution."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from runtime.grading.log_verdict import END, EXIT, START

TEST_SH = """#!/bin/sh
# Runs the set's own tests. LiveRL reads the log, and computes the verdict from what that tells of each test.
logs=/logs/verifier
mkdir -p "$logs"
here=$(cd "$(dirname "$0")" && pwd)
cd {workdir} || exit 1
if command -v bash > /dev/null; then shell=bash; else shell=sh; fi
"$shell" "$here/eval.sh" > "$logs/test_output.txt" 2>&1
exit 0
"""
SOLVE_SH = """#!/bin/sh
# Applies the known repair.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd {workdir}
git apply --whitespace=nowarn{reverse} "$here/solution.patch"
"""
SOLVE_FILES_SH = """#!/bin/sh
# Puts the known repair in place.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cp -R "$here/files/." {workdir}/
"""
CONDA = ("source /opt/miniconda3/bin/activate", "conda activate testbed")
"""How images of SWE-bench's make reach the Python that the tests need."""


def told(script: str) -> str:
    """A set's own script, saying how its test command ended."""
    lines = script.split("\n")
    for index, line in enumerate(lines):
        if END in line:
            said = ["liverl_exit=$?", line, f'echo "{EXIT}: $liverl_exit"']
            return "\n".join([*lines[:index], *said, *lines[index + 1 :]])
    return script


def evaluation(
    command: str,
    *,
    workdir: str,
    before: Sequence[str] = (),
    restore: Sequence[str] = (),
    base: str = "",
    patch: bool = False,
) -> str:
    """A script for sets that name the command alone. restore: files that are as at ``base`` before the test patch
    (``tests/test.patch``, if there is one) changes them."""
    lines = ["#!/bin/bash", "set -uxo pipefail", *before, f"cd {shlex.quote(workdir)}"]
    if restore and base:
        lines.append(shlex.join(["git", "checkout", base, "--", *restore]))
    if patch:
        broken = "{ echo '>>>>> Patch Apply Failed'; exit 1; }"
        lines.append(f'git apply --whitespace=nowarn "$(dirname "$0")/test.patch" || {broken}')
    lines += [f": '{START}'", command, f": '{END}'", ""]
    return told("\n".join(lines))
