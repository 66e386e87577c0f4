"""Prepared images: folders of pinned Python packages, installed once per content and shown read-only in sandboxes.

An image is named by what it holds, ``pytest==8.4.2`` or ``pytest==8.4.2 hypothesis==6.140.2``, so that a task carries
all that is needed to make it again on another machine. It does not know which task needs what.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from runtime.errors import ImageError, MachineError, UserError

_PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!]*")
INSTALL_SEC = 600


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverl" / "images"


def is_image(path: Path) -> bool:
    """Whether this entry of a cache is an image, not what an installation that was killed left behind."""
    return re.fullmatch(r"[0-9a-f]{16}", path.name) is not None


def prepare(image: str, *, cache: Path | None = None) -> Path:
    """The folder with the packages of ``image``, installed by pip if it is not there yet. Blocks.

    Raises ``UserError`` for a name that is not a list of exact pins, ``MachineError`` when pip or the disk fails.
    """
    pins = sorted(set(image.split()))
    if not pins or not all(_PIN.fullmatch(pin) for pin in pins):
        raise UserError(f"image {image!r}: not a list of exact pins such as 'pytest==8.4.2 attrs==25.3.0'")
    digest = _digest(pins)
    root = cache or default_cache()
    folder = root / digest
    if _use(folder):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two runs on one machine install once
            if not (folder / ".complete").exists():
                _install(pins, folder)
    except OSError as error:
        raise MachineError(f"image {image!r}: {folder}: {error.strerror}", fix=f"free space below {root}") from error
    return folder


def _use(folder: Path) -> bool:
    """Whether the image is there. It says when it was used last, and under its lock: what nothing uses is removed
    (``liverl gc``)."""
    whole = folder / ".complete"
    try:
        with folder.with_name(f"{folder.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            os.utime(whole)
    except OSError:  # not there, or a cache that cannot be written: then nobody removes from it either
        return whole.exists()
    return True


def _digest(pins: list[str]) -> str:
    """Names an image by all that pip chooses wheels by: a home folder may be shared by unlike machines."""
    python = (sys.implementation.cache_tag or "", sysconfig.get_platform())
    return hashlib.sha256(" ".join(["wheels", *python, *pins]).encode()).hexdigest()[:16]


def _install(pins: list[str], folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:  # uv makes environments without
        raise MachineError(f"image {' '.join(pins)}: this Python has no pip", fix=f"{sys.executable} -m ensurepip")
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / "image"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        # Wheels only: a task from elsewhere names pins, and building one runs its own code on this host.
        command += ["--only-binary", ":all:", "--no-compile", "--target", str(target), *pins]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SEC, check=False)
        except subprocess.TimeoutExpired as error:
            raise ImageError(f"pip took longer than {INSTALL_SEC} s", fix=" ".join(command)) from error
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no message"]
            if "No space left" in done.stderr:
                raise MachineError(f"image {' '.join(pins)}: disk full", fix=f"free space below {folder.parent}")
            why = " (wheels only: a source distribution would run its code here)" if "No matching" in said[-1] else ""
            raise ImageError(f"image {' '.join(pins)}: pip: {said[-1]}{why}", fix=" ".join(command))
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(target)], check=False, capture_output=True)
        (target / ".complete").write_text("\n".join(pins) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)
