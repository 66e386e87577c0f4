"""Images in which verdicts are tried: no libc and no Python; an old Python of another prefix; a whole Debian.

Made of this machine's files and Debian's packages, without a registry. Does not know what is judged in them.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from runtime.oci.manifest import Descriptor, Manifest
from runtime.oci.reference import parse
from runtime.oci.store import BUILT, ImageStore
from runtime.oci.types import Image
from tests.docker_engine import base_archive
from tests.oci_images import Content, busybox, layer, sha256
from tests.toolbox import python, require_command

OLD = "3.6"
"""The oldest Python that ``unittest`` tasks may bring (``docs/grading.md``)."""
WITH_PYTHON = ("python", "debian")
_LIBRARIES = f"lib/{os.uname().machine}-linux-gnu"
_VERSION = 3
"""Part of the images' names: raise it when other files would be in them."""
_LEFT_OUT = (
    "test",
    "tests",
    "site-packages",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "__pycache__",
    "turtledemo",
)


def without_libc(store: ImageStore) -> Image:
    """BusyBox alone: one static program."""
    require_command("busybox", package="busybox-static")
    return _added(store, "busybox", [busybox(), {"app": None}])


def old_python(store: ImageStore) -> Image:
    """A shell without a libc, and a Python below /usr/local that brings its own."""
    require_command("busybox", package="busybox-static")
    program = Path(python(OLD)).resolve()
    home = program.parents[1] / "lib" / f"python{OLD}"
    files: dict[str, Content] = {f"usr/local/bin/python{OLD}": program.read_bytes()}
    files |= {"usr/local/bin/python3": f"python{OLD}", "usr/local/bin/python": f"python{OLD}"}
    programs = [program]
    for path in sorted(home.rglob("*")):
        if path.is_file() and not any(part in _LEFT_OUT or part.startswith("config-") for part in path.parts):
            files[f"usr/local/lib/python{OLD}/{path.relative_to(home).as_posix()}"] = path.read_bytes()
            programs += [path] if ".so" in path.suffixes else []
    for library in _libraries(programs):
        # One that lies beside this machine's build of Python is where the image's loader looks first.
        place = library[1:] if library.startswith(("/lib", "/usr")) else f"{_LIBRARIES}/{Path(library).name}"
        files[place] = Path(library).read_bytes()
    return _added(store, "python", [busybox(), files, {"app": None}])


def debian(store: ImageStore) -> Image:
    """Debian's smallest, with its own Python, bash and GNU's tools."""
    archive, kept = base_archive(), dict[str, Content]()
    with tarfile.open(archive) as given:
        for entry in given:
            if entry.isdev():
                continue
            reader = given.extractfile(entry) if entry.isreg() else None
            kept[entry.name] = (entry, b"" if reader is None else reader.read())
    return _added(store, "debian", [kept, {"app": None}])


IMAGES: dict[str, Callable[[ImageStore], Image]] = {
    "busybox": without_libc,
    "python": old_python,
    "debian": debian,
}


def named(name: str, store: ImageStore) -> str:
    """The reference by which tasks name the image, which is in ``store`` from now on."""
    reference = str(parse(f"localhost/verdicts/{name}:{_VERSION}"))
    if store.known(reference) is None:
        store.name(reference, IMAGES[name](store))
    return reference


def _added(store: ImageStore, name: str, layers: Sequence[Mapping[str, Content]]) -> Image:
    described, blobs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for files in layers:
            content, digest = layer(files, packed=bytes)
            blobs[digest] = Path(folder) / digest
            blobs[digest].write_bytes(content)
            described.append(Descriptor(digest, len(content)))
        digests = [one.digest for one in described]
        manifest = Manifest(sha256("".join(digests).encode()), described[0], tuple(described))
        settings = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "WorkingDir": "/app"}
        config = {"rootfs": {"diff_ids": digests}, "config": settings}
        return store.add(manifest, config, blobs, reference=f"{BUILT}verdicts-{name}")


def _libraries(programs: list[Path]) -> Iterator[str]:
    """The loader and all that programs and modules are linked with."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    for path in sorted(set(re.findall(r"(/\S+\.so\S*)(?: \(0x|$)", said, re.MULTILINE))):
        if Path(path).is_file():
            yield path
