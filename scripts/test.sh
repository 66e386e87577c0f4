#!/bin/bash
# Runs all tests in groups, fast ones first, each test in the first group that its marks name. Called by `make test`; see there.
# Usage: scripts/test.sh BIN [more pytest arguments]
set -uo pipefail

bin=${1:?the folder of the virtual environment\'s programs}
shift
export OMP_NUM_THREADS=1
reports=$(mktemp -d)
fetching= waiting=
end() {
    [ -z "$fetching" ] || kill "$fetching" 2>/dev/null
    [ -z "$waiting" ] || kill -INT -- "-$waiting" 2>/dev/null
    rm -rf "$reports"
}
trap end EXIT
trap 'exit 130' INT

# Two at a time, most of which use one core (verl's processes are imported one after the other), and a third beside them
# for what comes from a network, which mostly waits. That is done long before the others; then the third takes rooms of
# the last group, one after the other, and begins none where it might be left alone with it at the end. Tests of one room
# stay together where they install something (tests/conftest.py). A second chance, where a test needs a quiet machine, is
# at the end, one at a time.
declare -A expressions=(
    [fast]="not (sandbox or torch or verl or deep or network or consumers)"
    [sandbox]="sandbox and not (torch or verl or deep or network or consumers)"
    [torch]="torch and not (verl or deep or network or consumers)"
    [verl]="verl and not (deep or network or consumers)"
    [deep]="deep and not (network or consumers)"
    [network]="network and not consumers"
    [consumers]="consumers"
)
together=(fast sandbox torch verl deep consumers)
beside=(network)
declare -A workers=([consumers]="-n 2 --dist loadgroup" [network]="-n 1" [alone]="-n 1")
for name in fast sandbox torch verl deep; do workers[$name]="-n 2 --dist worksteal"; done
"$bin/python" -c 'import xdist' 2>/dev/null || workers=()

# What the last group installs comes from a network meanwhile; a test that is earlier waits for its part.
if [ $# = 0 ] && "$bin/python" -c 'import pytest' 2>/dev/null; then
    "$bin/python" -m tests.fetch >"$reports/fetch.txt" 2>&1 </dev/null &
    fetching=$!
fi

# Takes the first room of the last group that nobody has begun, or all of them: `files` are their tests.
take() {
    files=()
    local room
    for room in "$reports"/rooms/*; do
        mv "$room" "$reports/taken.${room##*/}" 2>/dev/null || continue
        mapfile -t -O ${#files[@]} files <"$reports/taken.${room##*/}"
        [ "$1" = all ] || break
    done
    [ ${#files[@]} != 0 ]
}

# The tests of one group, or of one room of the last (`consumers.1`). Where all are asked for, the first group, which looks
# at every file, writes down which files have tests of the others (tests/conftest.py): to read the rest again takes each
# worker of each group ten seconds.
tests_of() {
    local name=$1 group=${1%%.*} files=()
    shift
    if [ $# = 0 ] && [ "$name" != fast ] && [ -e "$reports/number" ]; then
        case $name in
            consumers) take all || return 0 ;;
            consumers.*) take one || return 1 ;;
            *) mapfile -t files <"$reports/$name.files" ;;
        esac
        set -- "${files[@]}"
    fi
    printf '\n== tests: %s\n' "$name"
    : >"$reports/$name.begun"
    local lists=
    [ "$name" != fast ] || lists=$reports
    # shellcheck disable=SC2086
    LIVERL_TEST_GROUPS=$lists "$bin/python" -m pytest -q ${workers[$name]-${workers[alone]:-}} -m "${expressions[$group]}" -o cache_dir="$reports/$name.cache" \
        --junitxml="$reports/$name.xml" "$@"
    echo $? >"$reports/$name.code"
}

# A job with a process group of its own, to be ended as a whole. Where the files of a group lie is known soon after the
# first has begun.
set -m
{
    while [ ! -e "$reports/number" ] && [ ! -e "$reports/fast.code" ]; do sleep 0.2; done
    for name in "${beside[@]}"; do tests_of "$name" "$@"; done
    number=0
    while [ $# = 0 ] && [ -e "$reports/number" ] && [ ! -e "$reports/deep.begun" ] && tests_of "consumers.$((number += 1))"; do :; done
} >"$reports/beside.txt" 2>&1 </dev/null &
waiting=$!
set +m
for name in "${together[@]}"; do tests_of "$name" "$@"; done
printf '\n== meanwhile\n'
wait "$waiting"
waiting=
cat "$reports/beside.txt"
[ -z "$fetching" ] || { printf '\n== fetched meanwhile\n' && cat "$reports/fetch.txt"; }

failed=()
rooms=()
for code in "$reports"/consumers.*.code; do
    [ ! -e "$code" ] || rooms+=("$(basename "$code" .code)")
done
# Nothing of the last group may be left for its turn.
[ -e "$reports/consumers.code" ] || [ ${#rooms[@]} = 0 ] || echo 5 >"$reports/consumers.code"
for name in "${together[@]}" "${beside[@]}" "${rooms[@]}"; do
    code=$(cat "$reports/$name.code" 2>/dev/null || echo 2)
    # 1: tests failed. Those that need a quiet machine get a second chance, and are named in the summary.
    if [ "$code" = 1 ]; then
        printf '\n== tests: %s, those that failed once more\n' "$name"
        "$bin/python" -m pytest -q -m "${expressions[${name%%.*}]}" --last-failed -o cache_dir="$reports/$name.cache" \
            --junitxml="$reports/$name.again.xml" "$@"
        code=$?
    fi
    # 5: no test carries this mark.
    [ "$code" = 0 ] || [ "$code" = 5 ] || failed+=("$name")
done

expected=0
[ $# != 0 ] || [ -n "${PYTEST_ADDOPTS:-}" ] || expected=$(cat "$reports/number" 2>/dev/null || echo 0)
"$bin/python" - "$reports" "${failed[*]}" "$expected" <<'PYTHON'
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
missing = max(0, int(sys.argv[3]) - totals["tests"])
if missing:
    print(f"{missing} of {sys.argv[3]} tests were in no group, or their group ended before them")
bad = totals["failures"] + totals["errors"]
passed = totals["tests"] - bad - totals["skipped"]
print(f"{passed} passed, {totals['failures']} failed, {totals['errors']} errors, {totals['skipped']} skipped")
sys.exit(bool(missing))
PYTHON
complete=$?

[ ${#failed[@]} -eq 0 ] && [ $complete = 0 ]
