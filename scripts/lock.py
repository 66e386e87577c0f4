"""Makes ``requirements.lock``: every package that ``make install`` installs, one version each, with hashes.

    python -m scripts.lock            newest versions of everything, within pyproject.toml and targets/pins.py
    python -m scripts.lock --keep     only what these ask for and the lock lacks
    python -m scripts.lock --check    whether the lock was made from these; no network

torch is not in it: which build fits a machine is not known here, so pip installs it (``scripts/install.sh``). What the
CPU build needs is in it. One file holds for Python 3.11 and 3.12. Needs nothing but the standard library and, to make
the lock, uv.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targets.pins import CPU, requirements

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.lock"
EXTRAS = ("train", "dev")
"""What ``make install`` installs. dev has the clients for sandboxes elsewhere, but for harbor: it wants Python 3.12."""
OLDEST_PYTHON = "3.11"
TORCH_NEEDS = (
    "filelock",
    "fsspec>=0.8.5",
    "jinja2",
    "networkx>=2.5.1",
    "setuptools>=77.0.3",
    "sympy>=1.13.3",
    "typing-extensions>=4.10.0",
)
"""Of torch's CPU build. PyPI's build would add gigabytes for CUDA."""
_MADE_FROM, _APART = "# made from: sha256:", "# apart: "
_ENOUGH_SEC = 300


def inputs(project: Mapping[str, Any], pins: Mapping[str, str]) -> dict[str, Any]:
    """What the lock depends on, of pyproject.toml's tables and of the pinned set."""
    extras = project["project"]["optional-dependencies"]
    return {
        "build": sorted(project["build-system"]["requires"]),
        "dependencies": sorted(project["project"]["dependencies"]),
        "extras": {name: sorted(extras[name]) for name in EXTRAS},
        "python": project["project"]["requires-python"],
        "pins": requirements(pins),
        "torch": TORCH_NEEDS,
    }


def digest(project: Mapping[str, Any], pins: Mapping[str, str] = CPU) -> str:
    return hashlib.sha256(json.dumps(inputs(project, pins), sort_keys=True).encode()).hexdigest()


def header(project: Mapping[str, Any]) -> str:
    return (
        "# Every package of `make install`, made by `make lock` (scripts/lock.py).\n"
        f"{_MADE_FROM}{digest(project)}\n"
        f"{_APART}torch=={CPU['torch']}\n"
    )


def fits(root: Path) -> bool:
    """Whether the lock in ``root`` was made from what pyproject.toml there says."""
    lock = root / LOCK
    return lock.is_file() and lock.read_text().startswith(header(read(root)))


def read(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def find_uv() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        sys.exit("lock: uv is not installed\nfix: pip install uv, or put uv on the PATH")
    return found


def compiled(root: Path, *, keep: bool) -> str:
    """The text of a new lock. uv works in a copy, with settings that would mislead it about other installations."""
    project = read(root)
    settings = (
        "\n[tool.uv]\n"
        f"constraint-dependencies = {json.dumps(requirements(CPU))}\n"
        "[[tool.uv.dependency-metadata]]\n"
        f'name = "torch"\nversion = "{CPU["torch"]}"\nrequires-dist = {json.dumps(TORCH_NEEDS)}\n'
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text((root / "pyproject.toml").read_text() + settings)
        if keep and (root / LOCK).is_file():
            shutil.copy(root / LOCK, folder / LOCK)
        command = [find_uv(), "pip", "compile", "pyproject.toml", "--quiet", "--output-file", LOCK]
        command += ["--universal", "--python-version", OLDEST_PYTHON, "--fork-strategy", "fewest"]
        command += ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
        command += ["--no-emit-package", "torch", *(word for extra in EXTRAS for word in ("--extra", extra))]
        try:
            ended = subprocess.run(
                command, cwd=folder, stderr=subprocess.PIPE, text=True, timeout=_ENOUGH_SEC, check=False
            )
        except subprocess.TimeoutExpired:
            sys.exit(f"lock: uv took more than {_ENOUGH_SEC} s\nfix: look at the way to PyPI, then make lock again")
        if ended.returncode != 0:
            sys.exit(f"lock: uv cannot resolve pyproject.toml with targets/pins.py:\n{ended.stderr.strip()}")
        return header(project) + (folder / LOCK).read_text()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.lock")
    parser.add_argument("--keep", action="store_true", help="keep every version that still fits")
    parser.add_argument("--check", action="store_true", help="only say whether the lock fits; 1: it does not")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(not fits(ROOT))
    text = compiled(ROOT, keep=arguments.keep)
    whole = ROOT / f"{LOCK}.new"
    whole.write_text(text)
    whole.replace(ROOT / LOCK)


if __name__ == "__main__":
    main()
