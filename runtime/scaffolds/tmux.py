"""A tmux that runs in any sandbox: this machine's own, copied once with the libraries and the loader that it needs, so
that no image has to have one. Of the image it needs a shell.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from runtime.errors import MachineError

CURE = "apt-get install -y tmux"
_START = """#!/bin/sh
here=${{0%/bin/tmux}}
[ -d /usr/lib/locale/C.utf8 ] || export LOCPATH="$here/locale"
exec "$here/lib/{loader}" --library-path "$here/lib" "$here/lib/tmux" "$@"
"""
_LOCALE = Path("/usr/lib/locale/C.utf8")
_LIBRARY = re.compile(rb"(?:=> )?(/\S+) \(0x")


def bundle(cache: Path) -> Path:
    """The folder with ``bin/tmux``, below ``cache``. Raises ``MachineError`` when the machine has no tmux."""
    found = shutil.which("tmux")
    if found is None:
        raise MachineError("agent terminus-2: tmux is not installed", fix=CURE)
    program = Path(found).resolve()
    digest = hashlib.sha256(_START.encode() + program.read_bytes()).hexdigest()[:12]
    folder = cache / f"tmux-{digest}"
    if not folder.exists():
        with (cache / ".tmux.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _copy(program, folder)
    return folder


def _copy(program: Path, folder: Path) -> None:
    listed = subprocess.run(["ldd", str(program)], capture_output=True, check=False, timeout=30)
    libraries = [Path(name.decode()) for name in _LIBRARY.findall(listed.stdout)]
    loaders = [path.name for path in libraries if path.name.startswith("ld-")]
    if listed.returncode or len(loaders) != 1:
        said = (listed.stderr or listed.stdout).decode(errors="replace").strip()[-300:]
        raise MachineError(f"agent terminus-2: {program}: its libraries cannot be found: {said}", fix=CURE)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / "tmux"
        for name in ("bin", "lib"):
            (target / name).mkdir(parents=True)
        for path in (*libraries, program):
            shutil.copy(path, target / "lib" / path.name)  # follows links: the names are those that programs ask for
        if _LOCALE.is_dir():  # it works in UTF-8 alone
            shutil.copytree(_LOCALE, target / "locale" / _LOCALE.name)
        start = target / "bin" / "tmux"
        start.write_text(_START.format(loader=loaders[0]))
        start.chmod(0o755)
        target.rename(folder)
