"""A shell script that may be made to run what a program has printed is known as one."""

import pytest

from runtime.grading.shell_values import may_run_text

_IN_PYTHON = "python3 - <<'EOF'\nx = ((1, 2))\nprint(eval(str((x))))\nEOF\necho 1 > r\n"


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/bash\npytest /tests/test_x.py\nif [[ $? -eq 0 ]]; then echo 1 > r; fi\n",
        "#!/bin/bash\nn=0\nfor f in a b; do if grep -q x $f; then ((n++)); fi; done\necho $((n * 100 / 2)) > r\n",
        'passed=0\ntotal=3\n[ "$(cat x)" = 5 ] && passed=$((passed + 1))\nif (( passed == total )); then echo; fi\n',
        'status=${PIPESTATUS[0]}\nif [[ "$status" -eq 0 ]]; then echo; fi',
        "bash /tests/inner.sh\nrc=$?\nif [[ $rc -ne 0 ]]; then exit 1; fi",
        "timeout 20 sh /app/x | tee /logs/said\n[ ${PIPESTATUS[0]} -eq 0 ] && echo 1",
        '[ $(wc -l < f) -eq 5 ] && [[ "$x" == 5 ]] && echo',
        "set -e\nexport PATH=/x:$PATH\ncd /app || exit 1\n(cd /app && make)\n# eval $x",
        _IN_PYTHON,
    ],
)
def test_scripts_that_believe_exit_codes_and_compare_text_do_not(script: str) -> None:
    assert not may_run_text([script])


@pytest.mark.parametrize(
    "script",
    [
        *("n=$(python3 x)\nif [[ $n -eq 51 ]]; then :; fi", "r=$((n == 51))", "[[ $(x) -ge 3 ]]", "n=`x`\n((n))"),
        *("read n < f\n[[ 5 -lt \"$n\" ]]", "n=5\nn=$(cat f)\n((n))", "n=0; n+=$(cat f); ((n))", "n=$1\n((n))"),
        *("for n in $(cat f); do (( n == 3 )); done", "x | while read -r n; do (( n > 3 )); done", "echo $((`x`))"),
        *("eval $x", "x=1; . /tmp/env", "cat f | bash", 'bash -c "$x"', "if bash /tmp/x; then :; fi", "x=5 sh /tmp/x"),
        *("echo ${!x}", "echo ${s:$n}", "echo ${s:n:2}", "a[$x]=1", 'echo "${a[$x]}"', "let n=x", "declare -i n=$x"),
        *("[[ -v $x ]]", 'test -v "$x"', 'printf -v "$x" 1', "(( $1 > 3 ))", "env bash /tmp/x", "trap \"$x\" EXIT"),
    ],
)  # fmt: skip
def test_and_others_may(script: str) -> None:
    assert may_run_text(["echo 1\n", script])
