"""Coding agents on this machine: each pinned version is installed once into a folder of its own and shown read-only in
sandboxes, never installed per trial.

A folder is named by what it holds and appears under that name only when it is complete, so that any number of processes
may ask at once. Knows npm and pip; does not know what an agent does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.errors import MachineError

INSTALL_SEC = 900


@dataclass(frozen=True)
class Package:
    """What an agent is installed from: exact pins of one registry.

    ``python`` is the least minor version of Python 3 that pip packages need; the newest one up to 3.13 that the machine
    has is taken, this interpreter if it suffices. ``constraints``: a file of pip's with the versions that they
    depend on.
    """

    name: str
    registry: Literal["npm", "pip"]
    pins: tuple[str, ...]
    python: int = 11
    constraints: Path | None = None

    @property
    def program(self) -> str:
        return "npm" if self.registry == "npm" else f"python3.{self.python}"


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverl" / "agents"


def installed(package: Package, *, cache: Path | None = None) -> Path | None:
    """The folder of ``package`` if it is installed here."""
    folder = _folder(package, cache or default_cache())
    return folder if (folder / ".complete").exists() else None


def install(package: Package, *, cache: Path | None = None) -> Path:
    """The folder of ``package``, filled by npm or pip if it is not there yet. Blocks.

    npm packages are in ``node_modules`` below it, pip packages directly in it. Raises ``MachineError`` when the
    installer is missing or fails, or the disk is full.
    """
    program = find_installer(package)
    if program is None:
        raise MachineError(f"agent {package.name}: {package.program} is not installed", fix=how_to_get(package))
    folder = _folder(package, cache or default_cache())
    if (folder / ".complete").exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / ".complete").exists():
                _install(package, program, folder)
    except OSError as error:
        raise MachineError(
            f"agent {package.name}: {folder}: {error.strerror}", fix=f"free space below {folder.parent}"
        ) from error
    return folder


def find_installer(package: Package) -> str | None:
    """The program that installs ``package`` here: npm, or the Python that will also run it."""
    if package.registry == "npm":
        return shutil.which("npm")
    python = find_python(package.python)
    return None if python is None else python.program


@dataclass(frozen=True)
class Python:
    """An interpreter of 3.``minor``; ``prefix`` is the folder that holds its standard library, None: that of our own,
    which every sandbox shows."""

    program: str
    minor: int
    prefix: Path | None = None


def find_python(minor: int) -> Python | None:
    """A Python of at least 3.``minor``: this process's own, else the oldest on the PATH or among pyenv's."""
    if sys.version_info[1] >= minor:
        return Python(sys.executable, sys.version_info[1])
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for version in range(minor, 14):
        name = f"python3.{version}"
        found = [shutil.which(name), *map(str, sorted(pyenv.glob(f"3.{version}.*/bin/{name}")))]
        for program in found:
            # pyenv's shims are on the PATH but work only where that version is selected.
            if program is not None and "/shims/" not in program:
                return Python(program, version, Path(program).resolve().parents[1])
    return None


def how_to_get(package: Package) -> str:
    """The command that installs the installer."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    if package.registry == "npm":
        return f"{sudo}apt-get install -y npm   (node 20 or newer)"
    return f"install Python 3.{package.python}, for example: pyenv install 3.{package.python}"


def _folder(package: Package, cache: Path) -> Path:
    content = [package.registry, *package.pins]
    if package.registry == "pip" and (python := find_python(package.python)) is not None:
        content.append(f"3.{python.minor}")  # compiled parts fit one version of Python
    if package.constraints is not None:
        content.append(package.constraints.read_text())
    digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:12]
    return cache / f"{package.name}-{digest}"


def _install(package: Package, program: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / "agent"
        target.mkdir()
        command = _command(package, program, target)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SEC, check=False)
        except subprocess.TimeoutExpired as error:
            raise MachineError(
                f"agent {package.name}: {package.program} took longer than {INSTALL_SEC} s", fix=" ".join(command)
            ) from error
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            fix = f"check the network and the version, then try again: {' '.join(package.pins)}"
            if "No space left" in done.stderr or "ENOSPC" in done.stderr:
                said, fix = ["the disk is full"], f"free space below {folder.parent}"
            raise MachineError(f"agent {package.name}: {package.program}: {said[-1].strip()[:300]}", fix=fix)
        (target / ".complete").write_text("\n".join(package.pins) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)


def _command(package: Package, program: str, target: Path) -> Sequence[str]:
    if package.registry == "npm":
        quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
        return [program, "install", *quiet, "--prefix", str(target), *package.pins]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    constraints = [] if package.constraints is None else ["--constraint", str(package.constraints)]
    return [program, "-m", "pip", "install", *quiet, *constraints, "--target", str(target), *package.pins]
