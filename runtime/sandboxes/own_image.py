"""What a box on another machine gets where it is made of a task's own image: Python with all it needs, LiveRL's
programs, agents and packages, brought into volumes before the box itself starts and read-only in it.

The image may have no shell, no ``tar`` and no Python, so another container takes the files in: a receiver, of the
backend's own image. It does not know how a backend starts the two.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from runtime.sandboxes import bwrap, images, remote_shell
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.guest_python import PLACE, guest_python
from runtime.sandboxes.programs import PROGRAMS

BROUGHT = "/.liverl-brought"
"""Below this the receiver has the volumes, each at the place that it has in the box."""
COMPLETE = f"{BROUGHT}{bwrap.LIVERL}/.complete"
NOTHING = "/.liverl-nothing"
"""A volume with an empty file of that name, which is put over files of the image that no box shows."""
RECEIVE = f'trap "exit 1" TERM INT; until [ -e {COMPLETE} ]; do sleep 0.05 & wait $!; done; sleep 0.1'
"""What the receiver's shell runs: it ends, well, once all is there and who brought it has been told so."""
_LEFT_OUT = ("pydoc_data", "distutils", "turtle.py")
_VERSION = 1
"""Part of the archive's name: raise it when the same Python would give another archive."""


def places(request: SandboxRequest) -> list[str]:
    """Folders that are brought; one below another is part of that."""
    wanted = {PLACE, bwrap.LIVERL}
    if request.image:
        wanted.add(bwrap.IMAGE)
    for mount in request.mounts:
        if not mount.hides:
            wanted.add(mount.target if mount.source.is_dir() else str(PurePosixPath(mount.target).parent))
    return outermost(wanted)


def hidden(request: SandboxRequest) -> tuple[list[str], list[str]]:
    """Folders and files of the image that the box must not show."""
    hides = [mount for mount in request.mounts if mount.hides]
    folders = [mount.target for mount in hides if mount.source.is_dir()]
    return folders, [mount.target for mount in hides if not mount.source.is_dir()]


def outermost(paths: Iterable[str]) -> list[str]:
    found = sorted(PurePosixPath(path) for path in paths)
    return [str(path) for path in found if not any(path != other and path.is_relative_to(other) for other in found)]


def is_changed(request: SandboxRequest) -> bool:
    """Whether the work directory is another than the image's own: then it travels, into a volume that hides the
    image's, for that may hold what the box must not show (later commits, tests). Blocks."""
    from runtime.oci.store import ImageStore

    assert request.root is not None
    return ImageStore().tree(request.root, request.workdir) != request.lower.resolve()


def brought(request: SandboxRequest, *, changed: bool) -> bytes:
    """A tar archive of all but Python. Blocks."""
    trees = [(folder, f"{bwrap.LIVERL}/{name}") for name, folder in PROGRAMS.items()]
    trees += [(mount.source, mount.target) for mount in request.mounts if not mount.hides]
    trees += [(mount.source, NOTHING + NOTHING) for mount in request.mounts if mount.hides and mount.source.is_file()]
    if changed:
        trees.append((request.lower, request.workdir))
    if request.image:
        trees.append((images.prepare(request.image), bwrap.IMAGE))
    return remote_shell.pack_trees(trees)


def python_archive() -> Path:
    """A compressed tar archive of ``guest_python``, made once. Blocks."""
    folder = guest_python()
    target = folder.with_name(f"{folder.name}-{_VERSION}.tar.gz")
    if not target.exists():
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".")
        try:
            with os.fdopen(handle, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as made:
                for path in sorted(folder.rglob("*")):
                    _add(made, path, f"{PLACE[1:]}/{path.relative_to(folder).as_posix()}")
            Path(name).replace(target)  # whoever else made it: the same
        finally:
            Path(name).unlink(missing_ok=True)
    return target


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    if any(part in _LEFT_OUT for part in path.parts) or ".opt-" in path.name:
        return
    member = archive.gettarinfo(str(path), arcname=name)
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode |= 0o200
    if not member.isreg():
        archive.addfile(member)
        return
    content = _stripped(path) if ".so" in path.name else path.read_bytes()
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _stripped(path: Path) -> bytes:
    """A library without what debuggers want of it, where this machine can take that away: it travels once per box."""
    strip = shutil.which("strip")
    if strip is not None:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [strip, "--strip-debug", "-o", f"{folder}/made", str(path)], capture_output=True, check=False
            )
            if done.returncode == 0:
                return Path(folder, "made").read_bytes()
    return path.read_bytes()


def environment(request: SandboxRequest, home: str | None = None) -> dict[str, str]:
    """Of every command, as in any box of the image; home: in place of the image's root's."""
    assert request.root is not None
    extra = dict(request.env)
    if request.image:
        extra.setdefault("PYTHONPATH", bwrap.IMAGE)
    if home is not None:
        extra.setdefault("HOME", home)
    return bwrap.image_environment(request.workdir, dict(request.root.env), extra)


COPY = (
    "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], symlinks=True, dirs_exist_ok=True, "
    "copy_function=shutil.copy)"
)


def copy_command(source: str, target: str) -> Sequence[str]:
    """Copies a folder of the image; owners become whoever runs it."""
    return [bwrap.PYTHON, "-I", "-S", "-B", "-c", COPY, source, target]
