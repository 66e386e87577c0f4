"""The image of a container: base, pristine repository, guest programs, pinned packages, read-only mounts; by content.

Everything is copied into the image instead of mounted, so that one image is built once per content and started any
number of times, and the daemon needs no access to this machine's files. It does not know when containers start.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from runtime.sandboxes import bwrap
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.guest_python import PLACE, guest_python
from runtime.sandboxes.programs import PROGRAMS

LOWER = "/.lower"


def sources(request: SandboxRequest, image: Path | None) -> list[tuple[Path, str]]:
    """(host file or folder, place inside) of everything that the image holds."""
    found = [(request.lower, LOWER)]
    found += [(folder, f"{bwrap.LIVERL}/{name}") for name, folder in PROGRAMS.items()]
    if request.root is not None:
        found.append((guest_python(), PLACE))
    found += [(mount.source, mount.target) for mount in request.mounts if not mount.hides]
    if image is not None:
        found.append((image, bwrap.IMAGE))
    return found


def digest(base: str, places: list[tuple[Path, str]]) -> str:
    """Hexadecimal name of the image's content: paths, modes, links and bytes."""
    total = hashlib.sha256(base.encode())
    for path, name in _entries(places):
        if path.is_symlink():
            what = b"link " + str(path.readlink()).encode()
        elif path.is_file():
            what = f"file {path.stat().st_mode & 0o777:o} ".encode() + hashlib.sha256(path.read_bytes()).digest()
        else:
            what = b"folder"
        total.update(name.encode(errors="surrogateescape") + b"\0" + what + b"\0")
    return total.hexdigest()[:24]


def build_context(base: str, places: list[tuple[Path, str]], workdir: str) -> bytes:
    """A tar file for the engine's build: the content below ``root/`` and a Dockerfile."""
    dockerfile = f"FROM {base}\nCOPY root/ /\n".encode()  # and no RUN: an image may have no shell
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(dockerfile)
        archive.addfile(info, io.BytesIO(dockerfile))
        for folder in (workdir, "/logs", "/opt/liverl-control"):
            entry = tarfile.TarInfo(f"root{folder}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, name in _entries(places):
            added = archive.gettarinfo(str(path), arcname=f"root{name}")
            if not (added.isfile() or added.isdir() or added.issym()):
                continue
            added.uid = added.gid = 0
            added.uname = added.gname = "root"
            if added.isfile():
                with path.open("rb") as content:
                    archive.addfile(added, content)
            else:
                archive.addfile(added)
    return stream.getvalue()


def _entries(places: list[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    for root, place in places:
        yield root, place
        if root.is_dir():
            for path in sorted(root.rglob("*")):
                if "__pycache__" not in path.parts:
                    yield path, f"{place}/{path.relative_to(root).as_posix()}"
