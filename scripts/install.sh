#!/bin/bash
# Makes a virtual environment with everything that LiveRL's runs and tests need. Called by `make install`; see there.
# Usage: [PYTHON=python3.11] scripts/install.sh VENV
set -euo pipefail

venv=${1:?the folder of the virtual environment}
torch=torch==2.13.0
cpu_wheels=https://download.pytorch.org/whl/cpu

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

if [ ! -x "$venv/bin/python" ] || ! right_version "$venv/bin/python"; then
    python=$(find_python)
    say "virtual environment with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

# torch first: the CPU build is a tenth of the default one. Its wheels' index is asked only if it can be reached, because a local index or
# find-links may have the build too, and pip would wait for an index that does not answer.
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
if ! "$venv/bin/python" -c "from importlib.metadata import version; assert version('torch').split('+')[0] == '${torch#*==}'" 2>/dev/null; then
    say "$torch (CPU build)"
    extra=()
    if "$venv/bin/python" -c "import urllib.request; urllib.request.urlopen('$cpu_wheels/torch/', timeout=5)" 2>/dev/null; then
        extra=(--extra-index-url "$cpu_wheels")
    fi
    pip install "${extra[@]}" "$torch"
fi
say "LiveRL with its trainer and tools"
pip install --editable '.[train,dev]'

if ! command -v bwrap >/dev/null && ! apt_install bubblewrap; then
    say "bubblewrap is missing; agents would run as plain processes, with your rights. To isolate them:"
    say "    sudo apt-get install -y bubblewrap"
fi
# Compiled once, also where PYTHONDONTWRITEBYTECODE is set: a third of the start of every command.
"$venv/bin/python" -m compileall -q compiler liverl runtime targets specs || true
say "done; see \`$venv/bin/liverl doctor\`"
