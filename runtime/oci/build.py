"""Builds a Dockerfile into the store without a daemon: Debian's ``buildah`` with its chroot isolation, as root.

The instructions of a build run on this machine with little between them and it (file system and processes apart, the
kernel shared): they are a task author's code, as much as an installed package is. Without leave they have no network
but what fetches the images of ``FROM``. It does not know which tasks are built.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from runtime.errors import ImageError, MachineError
from runtime.oci.manifest import read_manifest
from runtime.oci.store import BUILT, ImageStore
from runtime.oci.types import Image

INSTALL = "apt-get install -y buildah"
_SAID = 300


def build(dockerfile: Path, context: Path, *, store: ImageStore, key: str, network: bool, timeout_sec: float) -> Image:
    """The image of a Dockerfile, known to the store as ``key``. Raises ``ImageError`` for a build that fails or cannot
    be made here, ``MachineError`` for a full disk."""
    program = shutil.which("buildah")
    if program is None or os.getuid() != 0:
        why = "the program buildah is not here" if program is None else "buildah's chroot isolation needs root"
        raise ImageError(f"{dockerfile} cannot be built: {why}", fix=INSTALL)
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=store.root) as folder:
        layout = Path(folder) / "layout"
        places = ["--root", f"{store.root}/buildah/root", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
        unpinned = ["--registries-conf", _short_names(Path(folder))]
        for name in _stands_on(dockerfile):
            _run([program, *places, *unpinned, "pull", "--quiet", "--policy", "missing", name], dockerfile, timeout_sec)
        # Chroot isolation has the network of buildah itself.
        alone = [] if network else [_unshare(), "--net"]
        command = [*alone, program, *places, *unpinned, "bud", "--isolation", "chroot", "--format", "oci"]
        command += ["--pull-never", "--timestamp", "0", "--layers=false", "--file", str(dockerfile)]
        command += ["--tag", "liverl/task", str(context)]
        _run(command, dockerfile, timeout_sec)
        _run([program, *places, "push", "liverl/task", f"oci:{layout}:task"], dockerfile, timeout_sec)
        _run([program, *places, "rmi", "--force", "liverl/task"], dockerfile, timeout_sec)
        image = import_layout(layout, store, reference=f"{BUILT}{key}")
    store.name(key, image)
    return image


def import_layout(layout: Path, store: ImageStore, *, reference: str) -> Image:
    """An OCI layout folder of one image (``oci:`` of skopeo and buildah) into the store."""
    blobs = layout / "blobs" / "sha256"
    index = json.loads((layout / "index.json").read_bytes())
    if len(index["manifests"]) != 1:
        raise ImageError(f"{layout}: holds {len(index['manifests'])} images", fix="give a layout of one image")
    digest = str(index["manifests"][0]["digest"])

    def path(descriptor: str) -> Path:
        return blobs / descriptor.removeprefix("sha256:")

    manifest = read_manifest(reference, digest, json.loads(path(digest).read_bytes()))
    config = json.loads(path(manifest.config.digest).read_bytes())
    files = {one.digest: path(one.digest) for one in manifest.layers}
    return store.add(manifest, config, files, reference=reference)


def _stands_on(dockerfile: Path) -> list[str]:
    """The images that a Dockerfile takes from elsewhere. Raises ``ImageError`` for a name that is put together."""
    stages, found = set[str](), list[str]()
    for number, line in enumerate(dockerfile.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        named = [word.removeprefix("--from=") for word in words[1:] if word.startswith("--from=")]
        if words and words[0].upper() == "FROM":
            named = [word for word in words[1:] if not word.startswith("--")][:1]
        elif not words or words[0].upper() != "COPY":
            continue
        for name in named:
            if "$" in name:
                why = f"{dockerfile}:{number}: the image {name} is put together of variables"
                raise ImageError(why, fix="write the image's whole name")
            if name.lower() not in stages and name != "scratch" and not name.isdecimal():
                found.append(name)
        if len(words) > 3 and words[-2].upper() == "AS":
            stages.add(words[-1].lower())
    return list(dict.fromkeys(found))


def _unshare() -> str:
    return shutil.which("unshare") or "unshare"


def _short_names(folder: Path) -> str:
    """Names without a registry are Docker Hub's, as Docker has it, whatever this machine's settings say."""
    path = folder / "registries.conf"
    path.write_text('unqualified-search-registries = ["docker.io"]\nshort-name-mode = "permissive"\n')
    return str(path)


def _run(command: list[str], dockerfile: Path, timeout_sec: float) -> None:
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_sec, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        why = f"took longer than {timeout_sec:.0f} s (environment.build_timeout_sec)"
        raise ImageError(f"{dockerfile}: the build {why}", fix="a larger build_timeout_sec in task.toml") from error
    if done.returncode:
        said = " / ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])[-_SAID:]
        if "no space left" in said.lower():
            raise MachineError(f"{dockerfile}: the disk is full", fix="liverl images prune")
        hint = (
            "environment.images.build_network: true, if it fetches something" if "RUN" in done.stdout else "see there"
        )
        raise ImageError(f"{dockerfile} cannot be built: {said}", fix=hint)
