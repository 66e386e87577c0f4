#!/bin/bash
# Makes a virtual environment for runs on NVIDIA GPUs: LiveRL with the versions of torch, vLLM, verl and the rest that go together
# (targets/pins.py). Called by `make install-gpu`. Several gigabytes; needs a driver for CUDA 13, no CUDA toolkit.
# Usage: [PYTHON=python3.12] scripts/install_gpu.sh VENV
set -euo pipefail

venv=${1:?the folder of the virtual environment}
right_version() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
for python in ${PYTHON:-python3.12 python3.11 python3}; do right_version "$python" && break; python=; done
[ -n "$python" ] || { printf 'install: no Python 3.12 or 3.11\nfix: make install-gpu PYTHON=/path/to/python3.12\n' >&2; exit 3; }

if [ ! -x "$venv/bin/python" ] || ! right_version "$venv/bin/python"; then rm -rf "$venv"; "$python" -m venv "$venv"; fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
here=$(cd "$(dirname "$0")/.." && pwd)
pins=$(mktemp); override=$(mktemp); trap 'rm -f "$pins" "$override"' EXIT
"$venv/bin/python" -P - "$here" >"$pins" 3>"$override" <<'PY'
import os, runpy, sys
table = runpy.run_path(os.path.join(sys.argv[1], "targets", "cuda_set.py"))
print(*(f"{name}=={version}" for name, version in sorted(table["CUDA"].items()) if name != "python"), sep="\n")
os.write(3, "".join(f"{name}=={version}\n" for name, version in table["OVERRIDES"].items()).encode())
PY
pip install uv
SSL_CERT_FILE=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt} "$venv/bin/uv" --quiet pip install --compile-bytecode --python "$venv/bin/python" \
    --requirements "$pins" --override "$override" --editable "$here[train]"
printf 'install: done; see `%s/bin/liverl doctor specs/one-gpu.jsonnet`\n' "$venv"
