#!/bin/bash
# Makes a virtual environment with everything that LiveRL's runs and tests need: the packages of requirements.lock by
# uv, and torch by pip. Called by `make install`; see there.
# Usage: [PYTHON=python3.11] scripts/install.sh VENV [uv]      with `uv`, it ends as soon as uv is there
set -euo pipefail

venv=${1:?the folder of the virtual environment}
only=${2:-}
lock=requirements.lock
cpu_wheels=https://download.pytorch.org/whl/cpu
# What no start of a run imports is compiled when it is first used.
seldom='/(tests|mypyc?|pip|setuptools|kubernetes|anthropic|openai|wandb|networkx|tensorboard|google|opentelemetry)/'
seldom+='|/ray/(rllib|serve|llm|data|tune|train)/|/transformers/models/(?!auto|qwen|mistral/|__init__)'
seldom+='|/pygments/lexers/|/sympy/(physics|stats)/|/numpy/(f2py|distutils)/|/PIL/(?!_|Image|Tiff|Exif|Gimp|Palette)'
# Of these, what `import verl.trainer.main_ppo` needs, as every process of a trainer does.
seldom+='|/torch/testing/_internal/(?!__init__|common_dtype|logging_tensor|distributed/(__init__|fake_pg))'
seldom+='|/torch/_inductor/(?!(analysis/)?__init__|config|exc|utils|cpp_builder|cpu_vec_isa|cudagraph_utils|custom_graph_pass'
seldom+='|test_operators|standalone_compile|_functionalize_coll|analysis/device_info|runtime/(__init__|cache_dir|hints|runtime_u))'

say() { printf 'install: %s\n' "$*"; }
fail() { printf 'install: %s\nfix: %s\n' "$1" "$2" >&2; exit 3; }
root() { [ "$(id -u)" = 0 ]; }

# Debian packages are installed when we may; otherwise the command is shown.
apt_install() {
    root && command -v apt-get >/dev/null || return 1
    say "apt-get install $*"
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    apt-get update -qq >/dev/null 2>&1 && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

right_version() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
makes_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
    local found=
    for name in ${PYTHON:-python3.11 python3 /usr/bin/python3.11 python3.12 /usr/bin/python3}; do
        right_version "$name" || continue
        found=${found:-$name}
        if makes_venvs "$name"; then printf '%s' "$name"; return; fi
    done
    [ -n "$found" ] || fail "no Python 3.11 or 3.12 found${PYTHON:+ at $PYTHON}" "sudo apt-get install -y python3.11 python3.11-venv   (or: make install PYTHON=/path/to/python3.11)"
    local package
    package=$("$found" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
    apt_install "$package" >&2 && makes_venvs "$found" || fail "$found cannot make virtual environments" "sudo apt-get install -y $package"
    printf '%s' "$found"
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

# uv does not read pip's configuration: an index in PyPI's place and certificates are handed on.
from_pip() { sed -nE "s/^[^=]*\.$1='(.*)'\$/\1/p" <<<"$pip_says" | tail -n 1; }
uv() {
    if [ -z "${pip_says+known}" ]; then
        pip_says=$(pip config list 2>/dev/null || true)
        local index certificates
        index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$(from_pip index-url)}}
        certificates=${SSL_CERT_FILE:-$(from_pip cert)}
        [ -z "$index" ] || export UV_DEFAULT_INDEX=$index
        [ -z "$certificates" ] || export SSL_CERT_FILE=$certificates
        export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
    fi
    "$venv/bin/uv" --quiet pip install --python "$venv/bin/python" --no-deps --build-constraint "$lock" "$@"
}
installed() { "$venv/bin/python" -c "import sys; from importlib.metadata import version; sys.exit(version('${1%%==*}').split('+')[0] != '${1#*==}')" 2>/dev/null; }

if [ ! -x "$venv/bin/python" ] || ! right_version "$venv/bin/python"; then
    python=$(find_python)
    say "virtual environment with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

pinned=$(sed -n '/^uv==/,/^ *#/p' "$lock")
if ! installed "${pinned%% *}"; then
    say "${pinned%% *}"
    pip install --no-deps --require-hashes --requirement /dev/stdin <<<"$pinned" || say "no uv for this machine; pip takes its place, slowly"
fi
[ "$only" != uv ] || exit 0
"$venv/bin/python" -m scripts.lock --check || fail "$lock was not made from today's pyproject.toml and targets/pins.py" "make lock KEEP=1"

say "$(grep -c '^[^ #]*==' "$lock") packages of $lock"
# pip can install the lock too; it resolves nothing then, and may know ways to packages that uv does not.
uv --require-hashes --requirements "$lock" || {
    say "uv could not; once more with pip"
    pip install --no-compile --no-deps --require-hashes --requirement "$lock"
}
# The CPU build of torch is a tenth of the default one. Its wheels' index is asked only if it can be reached, because a
# local index or find-links may have the build too, and pip would wait for an index that does not answer.
torch=$(sed -n 's/^# apart: //p' "$lock")
if ! installed "$torch"; then
    say "$torch (CPU build)"
    extra=()
    if "$venv/bin/python" -c "import urllib.request; urllib.request.urlopen('$cpu_wheels/torch/', timeout=5)" 2>/dev/null; then
        extra=(--extra-index-url "$cpu_wheels")
    fi
    pip install --no-compile "${extra[@]}" "$torch"
fi
say "LiveRL itself"
uv --editable . || pip install --no-deps --editable .

if ! command -v bwrap >/dev/null && ! apt_install bubblewrap; then
    say "bubblewrap is missing; agents would run as plain processes, with your rights. To isolate them:"
    say "    sudo apt-get install -y bubblewrap"
fi
# Compiled once, also where PYTHONDONTWRITEBYTECODE is set: a third of the start of every command.
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$venv/bin/python" -m compileall -q -j 0 -x "$seldom" compiler liverl runtime targets specs "$packages" >/dev/null || true
say "done; see \`$venv/bin/liverl doctor\`"
