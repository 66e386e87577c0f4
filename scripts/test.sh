#!/bin/bash
# Runs all tests in groups, fast ones first, each test in the first group that its marks name. Called by `make test`; see there.
# Usage: scripts/test.sh BIN [more pytest arguments]
set -uo pipefail

bin=${1:?the folder of the virtual environment\'s programs}
shift
export OMP_NUM_THREADS=1
reports=$(mktemp -d)
fetching=
trap 'rm -rf "$reports"; [ -z "$fetching" ] || kill "$fetching" 2>/dev/null' EXIT

# Two at a time: most tests use one core or wait (verl's processes are imported one after the other, published programs
# wait for a network). Tests of one room stay together where they install something (tests/conftest.py). A second chance,
# where a test needs a quiet machine, is one at a time.
declare -A workers=([consumers]="-n 2 --dist loadgroup" [network]="-n 2 --dist loadscope")
for name in fast sandbox torch verl deep; do workers[$name]="-n 2 --dist worksteal"; done
"$bin/python" -c 'import xdist' 2>/dev/null || workers=()

# What the last group installs comes from a network meanwhile; a test that is earlier waits for its part.
if [ $# = 0 ] && "$bin/python" -c 'import pytest' 2>/dev/null; then
    "$bin/python" -m tests.fetch >"$reports/fetch.txt" 2>&1 </dev/null &
    fetching=$!
fi

failed=()
group() {
    local name=$1 expression=$2
    shift 2
    printf '\n== tests: %s\n' "$name"
    # shellcheck disable=SC2086
    "$bin/python" -m pytest -q ${workers[$name]:-} -m "$expression" --junitxml="$reports/$name.xml" "$@"
    local code=$?
    # 1: tests failed. Those that need a quiet machine get a second chance, and are named in the summary.
    if [ $code = 1 ]; then
        printf '\n== tests: %s, those that failed once more\n' "$name"
        "$bin/python" -m pytest -q -m "$expression" --last-failed --junitxml="$reports/$name.again.xml" "$@"
        code=$?
    fi
    # 5: no test carries this mark.
    [ $code = 0 ] || [ $code = 5 ] || failed+=("$name")
}

group fast "not (sandbox or torch or verl or deep or network or consumers)" "$@"
group sandbox "sandbox and not (torch or verl or network or consumers)" "$@"
group torch "torch and not (verl or network or consumers)" "$@"
group verl "verl and not (network or consumers)" "$@"
group deep "deep" "$@"
group network "network and not consumers" "$@"
[ -z "$fetching" ] || { printf '\n== fetched meanwhile\n' && cat "$reports/fetch.txt"; }
group consumers "consumers" "$@"

"$bin/python" - "$reports" "${failed[*]}" <<'PYTHON'
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

totals, skips = Counter(), Counter()
folder, unsteady = Path(sys.argv[1]), []


def bad_cases(report):
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
    return {
        (case.get("classname"), case.get("name")): "errors" if case.find("error") is not None else "failures"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }


for report in sorted(folder.glob("*.xml")):
    if report.name.endswith(".again.xml"):
        continue
    for suite in ElementTree.parse(report).iter("testsuite"):
        for key in ("tests", "failures", "errors", "skipped"):
            totals[key] += int(suite.get(key, 0))
        for skipped in suite.iter("skipped"):
            skips[skipped.get("message", "no reason given")] += 1
    again = report.with_name(f"{report.stem}.again.xml")
    if again.exists() and report.stem not in sys.argv[2].split():
        for (place, name), kind in bad_cases(report).items():
            totals[kind] -= 1
            unsteady.append(f"{place}::{name}")
print("\n== summary")
for test in unsteady:
    print(f"unsteady (failed, then passed when repeated): {test}")
for reason, count in skips.most_common():
    print(f"skipped {count}: {reason}")
if sys.argv[2]:
    print(f"failed groups: {sys.argv[2]}")
bad = totals["failures"] + totals["errors"]
passed = totals["tests"] - bad - totals["skipped"]
print(f"{passed} passed, {totals['failures']} failed, {totals['errors']} errors, {totals['skipped']} skipped")
PYTHON

[ ${#failed[@]} -eq 0 ]
